"""What all three packages use: errors, files, locks, signals, the canonical backbone file."""
