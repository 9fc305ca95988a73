"""Figures of a training, and `python -m pretrain show`."""
