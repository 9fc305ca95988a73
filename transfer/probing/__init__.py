"""Frozen features: segmentation by k-NN and a linear classifier, retrieval."""
