"""From files to batches: images by number, scenes as token rows, an order that depends on seed and step alone."""
