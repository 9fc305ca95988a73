"""Labels of images that their names say: the folder that an image lies in, or what its file name begins with."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

from pretrain.common.errors import UserError

Kind = Literal["none", "folder", "prefix"]
FORMS = {"folder": "CLASS/IMAGE", "prefix": "CLASS__IMAGE"}
MARK = "__"


def class_of(name: str, kind: Kind) -> str | None:
    """The class of the image at the path `name`: "folder", the first folder of it; "prefix", the file name up to the
    first two underscores. None where there is none."""
    if kind == "folder":
        label, found, _ = name.partition("/")
    else:
        label, found, _ = name.rpartition("/")[2].partition(MARK)
    return label if found and label else None


def count_classes(names: Iterable[str], kind: Kind) -> Counter[str]:
    """How many images each class has. Raises `UserError` when an image has no class, or all have the same."""
    counts: Counter[str] = Counter()
    form = FORMS[kind]
    for name in names:
        label = class_of(name, kind)
        if label is None:
            raise UserError(f"labels {kind}: expected {form} for every image, found {name} without a class: move it "
                            "out, or use --labels none")
        counts[label] += 1
    if len(counts) < 2:
        found = f"all {counts.total()} images in the class {next(iter(counts))}" if counts else "no image"
        raise UserError(f"labels {kind}: expected two classes or more of the form {form}, found {found}: name the "
                        "folder that holds the classes, or use --labels none")
    return counts
