"""How fast this code is, beside a plain reference in the same process: `clove speed`."""
