"""CLoVE pretraining: unlabelled images in, a backbone checkpoint out."""

from pathlib import Path

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parent.parent  # of the project: pretrain/, transfer/, benchmarks/, results/
