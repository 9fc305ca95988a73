"""The suite: what runs where, and how results become tables."""
