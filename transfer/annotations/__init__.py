"""Annotation files: read as tools export them, made plain, checked; notes of what was checked."""
