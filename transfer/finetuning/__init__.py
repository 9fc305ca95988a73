"""A fine-tuning from start to result.json, and its preflight."""
