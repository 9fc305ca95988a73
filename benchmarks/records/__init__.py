"""The files of results/: written, sealed, checked, read. Standard library only."""
