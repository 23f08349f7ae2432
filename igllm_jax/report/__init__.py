"""One HTML file that shows predictions beside what is true: metrics, plots, pictures, marked code, views that turn."""
