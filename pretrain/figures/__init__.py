"""Figures of a training, and `clove show`."""
