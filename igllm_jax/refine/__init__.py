"""Predicted scenes improved: rendered, compared with their image, and moved until they explain it."""
