"""The official metrics of each task, and kept predictions."""
