"""How fast this code is, beside a plain reference: loader, step, loss, evaluation, GPU."""
