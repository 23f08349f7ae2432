"""The renderer `flat`: quick, shaded, drawn with NumPy."""
