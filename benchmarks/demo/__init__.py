"""The demo data: images with their annotations, painted from a random generator."""
