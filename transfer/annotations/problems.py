"""What is wrong with data or options, as lines: checks yield them, one place raises the first."""

from collections.abc import Iterator
from pathlib import Path

from pretrain.common.errors import UserError


def raise_first(problems: Iterator[str], place: Path | None = None) -> None:
    """Raise `UserError` for the first of `problems`, of the file or folder `place`, if there is one.

    The iterator is not continued: what it does after a problem may assume that there was none.
    """
    problem = next(problems, None)
    if problem is not None:
        raise UserError(problem if place is None else f"{place}: {problem}")
