"""`clove report`: everything that was measured on one page that needs no network."""
