"""Student's t, Welch's test, Holm's correction, the paired bootstrap."""
