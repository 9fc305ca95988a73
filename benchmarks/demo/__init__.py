"""Painters of the demo data (benchmarks/demo_data.py): pictures with their annotations, from a random generator."""
