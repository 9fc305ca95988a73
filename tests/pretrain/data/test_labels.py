"""Classes from the names of images."""

import pytest

from pretrain.common.errors import UserError
from pretrain.data.labels import class_of, count_classes


@pytest.mark.parametrize(("name", "folder", "prefix"), [
    ("cat/1.jpg", "cat", None), ("cat/deep/dog__1.jpg", "cat", "dog"), ("1.jpg", None, None),
    ("a_b__c__d.jpg", None, "a_b"), ("__1.jpg", None, None), ("x__y/1.jpg", "x__y", None), ("ü__1.jpg", None, "ü"),
])
def test_class_of__folder_and_prefix(name: str, folder: str | None, prefix: str | None) -> None:
    assert class_of(name, "folder") == folder and class_of(name, "prefix") == prefix


def test_count_classes__how_many_of_each() -> None:
    assert count_classes(["b/1", "a/1", "b/2"], "folder") == {"a": 1, "b": 2}
    assert count_classes(["b__1", "x/a__1", "b__2"], "prefix") == {"a": 1, "b": 2}


@pytest.mark.parametrize(("kind", "names", "text"), [
    ("folder", ["a/1.jpg", "2.jpg"], r"^labels folder: expected CLASS/IMAGE for every image and two classes or "
                                     r"more, found 2\.jpg without a class; name the folder .* or use --labels none$"),
    ("prefix", ["a__1.jpg", "b/2.jpg"], r"^labels prefix: expected CLASS__IMAGE for every image .* found b/2\.jpg "),
    ("folder", ["a/1.jpg", "a/b/2.jpg"], r"^labels folder: expected CLASS/IMAGE .* found 2 images with 1 classes "
                                         r"\(a\); name the folder that holds the classes"),
], ids=["no folder", "no prefix", "one class"])
def test_count_classes__what_is_missing_is_told(kind: str, names: list[str], text: str) -> None:
    with pytest.raises(UserError, match=text):
        count_classes(names, kind)
