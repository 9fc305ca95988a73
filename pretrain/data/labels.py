"""Labels of images from their names: the folder, or the beginning of the file name."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pretrain.common.errors import refuse

Kind = Literal["none", "folder", "prefix"]
FORMS = {"folder": "CLASS/IMAGE", "prefix": "CLASS__IMAGE"}


def class_of(name: str, kind: Kind) -> str | None:
    """The class of the image at the path `name`: "folder", the first folder of it; "prefix", the
    file name up to the first two underscores. None where there is none."""
    if kind == "folder":
        label, found, _ = name.partition("/")
    else:
        label, found, _ = name.rpartition("/")[2].partition("__")
    return label if found and label else None


def count_classes(names: Iterable[str], kind: Kind) -> Counter[str]:
    """How many images each class has. Raises `UserError` when an image has no class, or all have
    the same."""
    counts: Counter[str] = Counter()
    problem = None
    for name in names:
        label = class_of(name, kind)
        if label is None:
            problem = f"{name} without a class"
            break
        counts[label] += 1
    if problem is None and len(counts) < 2:
        problem = f"{counts.total()} images with {len(counts)} classes ({', '.join(counts)})"
    refuse((problem, f"labels {kind}: expected {FORMS[kind]} for every image and two classes or more, found {problem}; "
                     "name the folder that holds the classes, or use --labels none"))
    return counts
