"""Random scenes of each task, by its rules: `composers.COMPOSERS`."""
