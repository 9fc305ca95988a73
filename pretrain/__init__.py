"""CLoVE pretraining: unlabelled images in, a backbone checkpoint out."""

__version__ = "0.1.0"
