"""Blender as a renderer: worker processes in an environment of its own, fed with JSON lines. GPL code stays there."""
