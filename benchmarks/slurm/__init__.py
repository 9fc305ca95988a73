"""The same stages as Slurm jobs."""
