"""Datasets on disk: annotation files read and checked, images, pixel labels, shares."""
