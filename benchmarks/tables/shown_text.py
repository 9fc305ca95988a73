"""How values and rows are written, the same in every table, figure and message. Standard library only."""

import difflib
from collections.abc import Iterable

MISSING = "-"


def number_text(value: float | None, form: str = ".1f") -> str:
    """A number in this format, or that there is none."""
    return MISSING if value is None else format(value, form)


def signed(value: float | None) -> str:
    """A difference of percentages with its sign; 0 has none."""
    text = number_text(value, "+.1f")
    return "0.0" if text in ("+0.0", "-0.0") else text


def row_name(method: str, epochs: int | None) -> str:
    """What a row is called: its method and epochs, if it has any."""
    return method if epochs is None else f"{method} {epochs}"


def nearest(asked: str, names: Iterable[str]) -> str:
    """Which of these names was meant, and all of them: for messages about a name that is none of
    them."""
    names = list(dict.fromkeys(names))
    near = difflib.get_close_matches(asked, names, n=1, cutoff=0.0) or [MISSING]
    return f"the nearest is {near[0]}, all: {', '.join(names) or 'none'}"
