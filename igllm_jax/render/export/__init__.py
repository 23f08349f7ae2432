"""Scenes as files for other programs: `exporters.EXPORTERS`."""
