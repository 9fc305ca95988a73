"""How values and rows are written, the same in every table, figure and message. Standard library only."""

import difflib
from collections.abc import Iterable
from decimal import Decimal

MISSING = "-"


def percent(value: float | Decimal | None) -> str:
    """A percentage, or that there is none."""
    return MISSING if value is None else f"{value:.1f}"


def signed(value: float | None) -> str:
    """A difference of percentages with its sign; 0 has none."""
    text = MISSING if value is None else f"{value:+.1f}"
    return {"+0.0": "0.0", "-0.0": "0.0"}.get(text, text)


def epochs_text(epochs: int | None) -> str:
    """Epochs, or that there are none."""
    return MISSING if epochs is None else str(epochs)


def row_name(method: str, epochs: int | None) -> str:
    """What a row is called: its method and epochs, if it has any."""
    return method if epochs is None else f"{method} {epochs}"


def nearest(asked: str, names: Iterable[str]) -> str:
    """Which of these names was meant, and all of them: for messages about a name that is none of
    them."""
    names = list(dict.fromkeys(names))
    near = difflib.get_close_matches(asked, names, n=1, cutoff=0.0) or [MISSING]
    return f"the nearest is {near[0]}, all: {', '.join(names) or 'none'}"
