"""What is done with a finished detector: evaluate it, show it, compare it."""
