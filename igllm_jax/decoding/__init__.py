"""Decoding: images to answers in one compiled loop."""
