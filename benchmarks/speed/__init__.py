"""How fast our own code is, each part against a plain reference in the same process."""
