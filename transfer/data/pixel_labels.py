"""Semantic labels of the images of a dataset, made from what its annotations say of each pixel.

COCO's format: the class of the instance that covers a pixel, the smallest instance on top, 0
(background) where there is none, and no label inside crowd regions that no instance covers.
Cityscapes: its own 19 training labels (trainId), no label for the rest; it has no background class.
Legend: H W image, S stride of a feature map in pixels, h = H / S and w = W / S its grid, K classes.
"""

import contextlib
import io
import operator
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools.coco import COCO

from pretrain.common.errors import UserError, refuse
from pretrain.data.images import ImageList
from pretrain.data.pixels import UnreadableImage
from transfer.annotations import agreement
from transfer.annotations.plain_coco import own_id
from transfer.data.dataset import Dataset, Split

TRAINED = 19  # Cityscapes' training labels: trainId 0 to 18
IGNORE = -1  # pixels without a label: they count nowhere
MULTIPLE = 32  # sides of the resized images: the total stride of a ResNet
LONGEST = 4  # a longer side beyond this many shorter sides is squeezed: memory stays bounded


@dataclass(frozen=True)
class Labelled:
    """The images of one split with their labels: `read(i)` gives (H, W) int16 class numbers or
    `IGNORE`."""

    images: ImageList
    read: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def at(self, number: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Image (H, W, 3) uint8 RGB and labels (H, W) of image `number`, the shorter side resized
        to about `side`.

        Both sides are multiples of 32. Pixels bilinear with antialiasing, labels nearest. Raises
        `UserError`.
        """
        place = self.images.folder / self.images[number]
        try:
            pixels = self.images.pixels(number)
        except UnreadableImage as error:
            raise UserError(f"{place}: {error}; replace it or take it out") from None
        labels = self.read(number)
        refuse((labels.shape != pixels.shape[:2],
                f"{place} is {pixels.shape[1]} x {pixels.shape[0]} pixels but its annotation is "
                f"for {labels.shape[1]} x {labels.shape[0]}: expected the images that were "
                "annotated"))
        size = resized(pixels.shape[1], pixels.shape[0], side)
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
        numbers = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
        return np.array(image), np.array(numbers)


@dataclass(frozen=True)
class DenseData:
    """Both splits of a dataset, and its classes; `background` says whether class 0 is what no
    object covers."""

    train: Labelled
    val: Labelled
    classes: tuple[str, ...]
    background: bool


def resized(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) after resizing: the shorter side near `side`, both multiples of 32."""
    scaled = np.array([width, height]) * (side / min(width, height)) / MULTIPLE
    multiples = np.clip(scaled.round(), 1, LONGEST * side // MULTIPLE).astype(int)
    return tuple((multiples * MULTIPLE).tolist())


def of_instances(dataset: Dataset) -> DenseData:
    """COCO's format; raises for a dataset without masks."""
    refuse(("masks" not in dataset.parts,
            f"{dataset.train.annotations} has boxes and no masks: a probe needs the class of every "
            "pixel"))
    return DenseData(_coco(dataset.train), _coco(dataset.val), ("background", *dataset.classes), background=True)


def of_streets(dataset: Dataset) -> DenseData:
    from cityscapesscripts.helpers.labels import trainId2label

    classes = tuple(trainId2label[number].name for number in range(TRAINED))
    return DenseData(_cityscapes(dataset.train), _cityscapes(dataset.val), classes, background=False)


def cell_shares(labels: np.ndarray, stride: int, classes: int) -> np.ndarray:
    """(h*w, K) float32: the share of each class among the labelled pixels of each cell of a feature
    map; rows of zeros for cells without any. `labels` is (H, W) with sides that are multiples of
    `stride`."""
    height, width = labels.shape[0] // stride, labels.shape[1] // stride
    cells = np.arange(height * width).reshape(height, width).repeat(stride, 0).repeat(stride, 1)
    known = labels != IGNORE
    counts = np.bincount(cells[known] * classes + labels[known], minlength=height * width * classes)
    counts = counts.reshape(height * width, classes).astype(np.float32)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def images_in_both(data: DenseData) -> list[str]:
    """Image files that stand in train and in val: a leak in the data itself."""
    train, val = ({(half.images.folder / name).resolve() for name in half.images} for half in (data.train, data.val))
    return sorted(path.name for path in train & val)


def _coco(split: Split) -> Labelled:
    with contextlib.redirect_stdout(io.StringIO()):
        file = COCO(str(split.readable))
    records = file.loadImgs(sorted(file.imgs))
    categories = sorted(file.cats)  # class 0 is the background

    def read(number: int) -> np.ndarray:
        record, layers = records[number], []
        for row in file.imgToAnns[record["id"]]:
            if row.get("segmentation"):
                mask = _mask(file, row, split.annotations).astype(bool)
                layers.append((not row["iscrowd"], -mask.sum(), row["category_id"], mask))
        labels = np.zeros((record["height"], record["width"]), np.int16)
        for is_object, _, category, mask in sorted(layers, key=operator.itemgetter(0, 1)):  # the smallest on top
            labels[mask] = 1 + categories.index(category) if is_object else IGNORE
        return labels

    return Labelled(ImageList(split.image_root, [record["file_name"] for record in records]), read)


def _mask(file: COCO, row: dict, path: Path) -> np.ndarray:
    """(H, W) 0 or 1.

    As in detectron2's training, parts of a polygon with fewer than three points count for nothing.
    """
    mask, image = row["segmentation"], file.imgs[row["image_id"]]
    if isinstance(mask, list):
        mask = [part for part in mask if len(part) >= 6 and len(part) % 2 == 0]
    if not mask:
        return np.zeros((image["height"], image["width"]), np.uint8)
    try:
        agreement.read_mask(mask, image, decode=False)  # pycocotools reads any text as run lengths
        return file.annToMask({**row, "segmentation": mask})
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise UserError(f"{path}: annotation {own_id(row)} has a mask that cannot be read ({error})") from None


def _cityscapes(split: Split) -> Labelled:
    from cityscapesscripts.helpers.labels import trainId2label

    from transfer.data.cityscapes import list_files

    table = np.full(256, IGNORE, np.int16)
    for number in range(TRAINED):
        table[trainId2label[number].id] = number
    names, label_files = [], []
    for image, _, label_ids, _ in list_files(split.image_root, split.annotations):
        names.append(Path(image).relative_to(split.image_root).as_posix())
        label_files.append(label_ids)

    def read(number: int) -> np.ndarray:
        path = label_files[number]
        try:
            with Image.open(path) as image:
                return table[np.array(image)]
        except (OSError, SyntaxError, IndexError) as error:
            raise UserError(f"{path} cannot be read as label numbers ({error}): replace it") from None

    return Labelled(ImageList(split.image_root, names), read)
