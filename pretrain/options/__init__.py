"""Options as frozen dataclasses, on command lines and in recipe files."""
