"""Held-out training images: two annotation files of one, the same on every machine."""

import hashlib
import json
from pathlib import Path

import pytest

from pretrain.common.errors import UserError
from transfer.__main__ import main


def write(path: Path, count: int = 8) -> Path:
    """`count` images with 0, 1, 2, ... objects, the last of them first in the file."""
    images = [{"id": 10 + number, "file_name": f"{number:02d}.png", "width": 40, "height": 30}
              for number in reversed(range(count))]
    rows = [{"id": 100 * number + place, "image_id": 10 + number, "category_id": 3, "bbox": [1, 2, 3, 4]}
            for number in range(count) for place in range(number)]
    path.write_text(json.dumps({"info": {"year": 2026}, "images": images, "annotations": rows,
                                "categories": [{"id": 3, "name": "cell"}]}))
    return path


def hold_out(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["transfer", "hold-out", *map(str, arguments)])
    return main()


def test_hold_out__every_image_is_on_one_side_with_its_objects(tmp_path, monkeypatch, capsys) -> None:
    file = write(tmp_path / "train.json")
    assert hold_out(monkeypatch, file, "--share", 0.25, "--output", tmp_path / "held") == 0
    kept, held = (json.loads((tmp_path / "held" / f"{half}.json").read_text()) for half in ("train", "val"))
    largest = sorted((hashlib.sha256(f"{number:02d}.png".encode()).hexdigest(), number) for number in range(8))[-2:]
    numbers = {number for _, number in largest}
    assert {image["id"] - 10 for image in held["images"]} == numbers
    assert {image["id"] - 10 for image in kept["images"]} == set(range(8)) - numbers
    assert [image["id"] for image in kept["images"]] == sorted((image["id"] for image in kept["images"]), reverse=True)
    for part in (kept, held):
        assert len(part["annotations"]) == sum(image["id"] - 10 for image in part["images"])
        assert part["categories"] == [{"id": 3, "name": "cell"}] and part["info"] == {"year": 2026}
    assert f"val.json: 2 images, {sum(numbers)} objects" in capsys.readouterr().out


def test_hold_out__ids_may_be_text_and_stay_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "train.json")
    content = json.loads(file.read_text())
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for row in content["annotations"]:
        row["image_id"] = f"image {row['image_id']}"
    file.write_text(json.dumps(content))
    assert hold_out(monkeypatch, file, "--output", tmp_path / "held") == 0
    parts = [json.loads((tmp_path / "held" / f"{half}.json").read_text()) for half in ("train", "val")]
    for part in parts:
        own = {image["id"] for image in part["images"]}
        assert {row["image_id"] for row in part["annotations"]} <= own
        assert part["annotations"]
    assert sum(len(part["images"]) for part in parts) == 8
    assert sum(len(part["annotations"]) for part in parts) == len(content["annotations"])


# In the file of `write`, a field that is renamed, taken away or given another value.
REPLACED = {'"file_name"': '"coco_url"', '"image_id"': '"image"', '"id": 17,': "", '"id": 17': '"id": 16',
            '"image_id": 17': '"image_id": [17]', "07.png": "06.png"}


@pytest.mark.parametrize(("content", "share", "message"), [
    (None, 0.01, "--share 0.01 of 8 images holds out 0: expected at least one, and one that is kept"),
    (None, 1, "--share 1 of 8 images holds out 8: expected at least one, and one that is kept"),
    (None, "nan", "--share nan: expected a share of the images, from 0 to 1"),
    (None, "inf", "--share inf: expected a share of the images, from 0 to 1"),
    ("[]", 0.5, "train.json: found a list: expected a COCO annotation file, a JSON object with the non-empty lists"),
    ("{", 0.5, "is not JSON (Expecting property name"),
    ('"file_name"', 0.5, "has no 'file_name': expected id, file_name in each"),
    ('"image_id"', 0.5, "of 'annotations' has no 'image_id': expected image_id in each"),
    ('"id": 17,', 0.5, "entry 0 (id None) of 'images' has no 'id'"),
    ('"id": 17', 0.5, "2 entries of 'images' have id 16: expected a different one in each"),
    ('"image_id": 17', 0.5, "has image_id [17]: expected a whole number or a text"),
    ("07.png", 0.5, "train.json: 2 entries of 'images' have file_name '06.png': expected a different one in each")])
def test_hold_out__what_cannot_be_split_is_one_line(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, share: float | str, message: str) -> None:
    file = write(tmp_path / "train.json")
    if content is not None:
        text = file.read_text()
        file.write_text(text.replace(content, REPLACED[content]) if content in REPLACED else content)
    with pytest.raises(UserError) as error:
        hold_out(monkeypatch, file, "--share", share, "--output", tmp_path / "held")
    assert message in str(error.value)
    assert not (tmp_path / "held").exists()


def test_hold_out__does_not_replace_its_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "train.json")
    before = file.read_bytes()
    with pytest.raises(UserError, match=r"train\.json itself would be replaced there: choose another folder$"):
        hold_out(monkeypatch, file, "--output", tmp_path)
    assert file.read_bytes() == before and not (tmp_path / "val.json").exists()
