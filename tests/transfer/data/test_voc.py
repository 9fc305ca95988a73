"""Pascal VOC by folder: listed, checked, read; on the generated data in its layout."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.pascal_voc import load_voc_instances
from PIL import Image

from benchmarks.demo import demo_data
from pretrain.common.errors import UserError
from transfer.data import voc
from transfer.settings import datasets
from transfer.tasks import Where


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generated") / "demo"
    demo_data.generate(folder, photos=1, train=5, val=2)
    return folder / "voc"


@pytest.fixture
def folder(tmp_path: Path, generated: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(generated, tmp_path / "demo" / "voc")


def test_find__below_and_its_twenty_classes(folder: Path) -> None:
    found = datasets.find(folder.parent, "voc")  # DIR/voc/VOC2007
    assert found == datasets.find(folder, "voc")
    assert (len(found.classes), found.train.images, found.val.images) == (20, 5, 2)
    folder.rename(folder.with_name("VOCdevkit"))
    assert datasets.find(folder.parent, "voc").classes == found.classes


def test_register__records_are_detectron2s_own(folder: Path) -> None:
    train, val = datasets.register(datasets.find(folder, "voc"))
    own = [record for year in ("VOC2007", "VOC2012")
           for record in load_voc_instances(str(folder / year), "trainval", voc.CLASS_NAMES)]
    assert list(DatasetCatalog.get(train)) == own
    assert [len(record["annotations"]) > 0 for record in own].count(True) == 4
    assert list(DatasetCatalog.get(val)) == load_voc_instances(str(folder / "VOC2007"), "test", voc.CLASS_NAMES)
    meta = MetadataCatalog.get(val)
    assert (meta.dirname, meta.split, meta.year) == (str(folder / "VOC2007"), "test", 2007)


def annotation(folder: Path, listed: str = "VOC2007/ImageSets/Main/test.txt") -> Path:
    """The annotation of the first image in a list."""
    name = (folder / listed).read_text().split()[0]
    return folder / listed.partition("/")[0] / "Annotations" / f"{name}.xml"


def _replace(pattern: str, by: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text, count = re.subn(pattern, by, path.read_text(), count=1)
        assert count == 1
        path.write_text(text)
    return change


@pytest.mark.parametrize(("spoil", "text"), [
    (_replace("<name>[a-z]+</name>", "<name>star</name>"), "object 0 is a 'star', none of Pascal VOC's 20 classes"),
    (_replace("<name>[a-z]+</name>", ""), "object 0 is a '', none of Pascal VOC's"),
    (_replace("</annotation>", ""), "is not XML"),
    (_replace("<width>[0-9]+</width>", ""), "size is nan x 120: expected width and height in pixels"),
    (_replace("<xmin>[0-9]+", "<xmin>left"),
     "object 0 has the box nan, .*: expected numbers for xmin, ymin, xmax, ymax inside it"),
    (_replace("<xmax>[0-9]+", "<xmax>999"), "expected numbers for xmin, ymin, xmax, ymax inside it, counted from 1"),
    (_replace("<ymin>[0-9]+", "<ymin>nan"), "expected numbers for xmin, ymin, xmax, ymax inside it"),
    (_replace("<xmin>[0-9]+", "<xmin>2.5"),
     "object 0: expected whole numbers in the box, in 'truncated' and 'difficult', and a 'pose'"),
    (_replace("<pose>[a-zA-Z]+</pose>", ""), "and a 'pose', as the evaluation reads them; found .*, pose None"),
    (lambda path: path.unlink(), "test.txt: 1 of the 2 files that it lists are not in .*Annotations: "),
])
def test_find__a_wrong_annotation_is_named(spoil: Callable[[Path], None], text: str, folder: Path) -> None:
    path = annotation(folder)
    spoil(path)
    with pytest.raises(UserError, match=text) as caught:
        datasets.find(folder, "voc")
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_find__training_boxes_need_not_be_whole(folder: Path) -> None:
    path = annotation(folder, "VOC2012/ImageSets/Main/trainval.txt")
    _replace("<xmin>[0-9]+", "<xmin>2.5")(path)  # as some of the real 2012 files have
    train, _ = datasets.register(datasets.find(folder, "voc"))
    [record] = [record for record in DatasetCatalog.get(train) if record["image_id"] == path.stem]
    assert record["annotations"][0]["bbox"][0] == 1.5


@pytest.mark.parametrize(("written", "text"), [
    (None, r"trainval.txt cannot be read \(.*No such file.*\): expected the list of the images of VOC2012 trainval"),
    ("\n", "trainval.txt: no image: expected one identifier per line"),
    ("000002 -1\n000003 -1\n", "1 images are named more than once.*a list with -1, 0 or 1 behind each is one class's"),
])
def test_find__a_wrong_list_is_named(written: str | None, text: str, folder: Path) -> None:
    listed = folder / "VOC2012/ImageSets/Main/trainval.txt"
    listed.unlink() if written is None else listed.write_text(written)
    with pytest.raises(UserError, match=text):
        datasets.find(folder, "voc")


def test_find__images_missing_or_of_another_size(folder: Path) -> None:
    path = folder / "VOC2007/JPEGImages" / f"{annotation(folder).stem}.jpg"
    Image.new("RGB", (15, 10)).save(path)
    with pytest.raises(UserError, match="is 15 x 10 pixels but the annotations say 160 x 120"):
        datasets.find(folder, "voc")
    path.unlink()
    with pytest.raises(UserError, match=f"1 of the 2 files that it lists are not in .*JPEGImages: {path.name}"):
        datasets.find(folder, "voc")


def test_find__a_test_set_of_difficult_objects_has_nothing_to_find(folder: Path) -> None:
    for path in (folder / "VOC2007/Annotations").glob("*.xml"):
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    with pytest.raises(UserError, match="no object to find in 2 val images"):
        datasets.find(folder, "voc")


def test_describe__hash_follows_the_annotations_of_the_split(folder: Path) -> None:
    before = datasets.describe(datasets.find(folder, "voc"))
    path = annotation(folder)
    path.write_text(path.read_text() + "\n")
    after = datasets.describe(datasets.find(folder, "voc"))
    assert before["val"]["annotations_sha256"] != after["val"]["annotations_sha256"]
    assert before["train"] == after["train"] and len(before["val"]["annotations_sha256"]) == 64


def test_find__test_is_trainval(folder: Path) -> None:
    lists = folder / "VOC2007/ImageSets/Main"
    shutil.copy(lists / "trainval.txt", lists / "test.txt")
    with pytest.raises(UserError, match="images of VOC2007's test are training images too: .*--same-images allows it"):
        datasets.find(folder, "voc")
    assert datasets.find(Where(folder, same_images=True), "voc").val.images == len(
        (lists / "trainval.txt").read_text().split())
