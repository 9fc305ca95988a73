"""Looks: at a dataset, and at a finished detector, which is evaluated, shown or compared."""
