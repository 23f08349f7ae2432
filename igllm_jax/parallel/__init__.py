"""Many devices and processes: meshes, shardings, how processes find each other."""
