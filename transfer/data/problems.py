"""What is wrong with data, as lines: checks yield them, one place raises the first."""

from collections.abc import Iterator

from pretrain.common.errors import UserError


def raise_first(place: object, problems: Iterator[str]) -> None:
    """Raise `UserError` for the first of `problems` of the file or folder `place`, if there is one.

    The iterator is not continued: what it does after a problem may assume that there was none.
    """
    problem = next(problems, None)
    if problem is not None:
        raise UserError(f"{place}: {problem}")
