"""Transfer: any published ResNet checkpoint in, detectron2 weights and metrics out."""
