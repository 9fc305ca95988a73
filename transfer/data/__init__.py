"""Datasets on disk: folders found, images and pixel labels checked, shares of the training images."""
