"""A simulated program as one HTML file: a Gantt chart to zoom into."""
