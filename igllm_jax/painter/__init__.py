"""Paints scenes as quick flat images, and makes data sets of them in the layout of the released ones."""
