"""How fast this code is, each part beside a plain reference in the same process: `python -m benchmarks.speed`."""
