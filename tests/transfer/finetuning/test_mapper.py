"""The mapper of fine-tuning and evaluation: the pixels that pretraining and probe see, and detectron2's annotations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from PIL import Image

from pretrain.data.images import ImageList
from pretrain.data.pixels import UnreadableImage
from transfer.finetuning.mapper import UNUSABLE, Mapper


def config(**values: object) -> object:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (60,), 60
    cfg.INPUT.FORMAT, cfg.MODEL.MASK_ON = "RGB", True
    for name, value in values.items():
        cfg.INPUT[name] = value
    return cfg


def record(path: Path, width: int = 80, height: int = 60) -> dict:
    box = {"bbox": [10, 5, 30, 40], "bbox_mode": 0, "category_id": 0, "iscrowd": 0,
           "segmentation": [[10, 5, 30, 5, 30, 40, 10, 40]]}
    return {"file_name": str(path), "image_id": 1, "width": width, "height": height, "annotations": [box]}


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("training", [False, True])
def test_mapper__gives_what_detectron2s_own_gives(tmp_path: Path, colours: np.ndarray, order: str, training: bool
                                                  ) -> None:
    Image.fromarray(colours).save(tmp_path / "x.png")
    cfg, found = config(FORMAT=order), []
    for kind in (Mapper, DatasetMapper):
        np.random.seed(3)
        found.append(kind(cfg, is_train=training)(record(tmp_path / "x.png")))
    ours, theirs = found
    assert ours.keys() == theirs.keys() and torch.equal(ours["image"], theirs["image"])
    if training:
        for name, value in theirs["instances"].get_fields().items():
            mine = ours["instances"].get(name)
            assert str(mine) == str(value), name


def saved(kind: str, folder: Path, colours: np.ndarray) -> Path:
    grey = colours[..., 0]
    exif = Image.Exif()
    exif[0x0112] = 6
    image, suffix, more = {
        "grey": (Image.fromarray(grey), "png", {}),
        "16-bit PNG": (Image.fromarray(grey.astype(np.uint16) * 257), "png", {}),
        "16-bit TIFF": (Image.fromarray(grey.astype(np.uint16) * 257), "tif", {}),
        "palette": (Image.fromarray(colours).convert("P"), "png", {}),
        "CMYK": (Image.fromarray(colours).convert("CMYK"), "jpg", {}),
        "alpha": (Image.fromarray(np.dstack([colours, grey])), "png", {}),
        "turned": (Image.fromarray(colours), "jpg", {"exif": exif}),
    }[kind]
    image.save(folder / f"x.{suffix}", **more)
    return folder / f"x.{suffix}"


@pytest.mark.parametrize("kind", ["grey", "16-bit PNG", "16-bit TIFF", "palette", "CMYK", "alpha", "turned"])
def test_mapper__pixels_are_those_of_pretraining(tmp_path: Path, colours: np.ndarray, kind: str) -> None:
    path = saved(kind, tmp_path, colours)
    pretrained = ImageList(tmp_path, [path.name]).pixels(0)
    assert pretrained.std() > 10
    height, width = pretrained.shape[:2]
    cfg = config(MIN_SIZE_TEST=min(height, width))
    mapped = Mapper(cfg, is_train=False)(record(path, width, height))
    assert np.array_equal(mapped["image"].numpy().transpose(1, 2, 0), pretrained)


def test_mapper__sixteen_bits_by_their_range(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1000, 60 * 80).astype(np.uint16).reshape(60, 80)).save(tmp_path / "x.png")
    with pytest.raises(UnreadableImage, match="16-bit pixels without a value above 1000, .* use --sixteen-bit range"):
        Mapper(config(), is_train=False)(record(tmp_path / "x.png"))
    image = Mapper(config(SIXTEEN_BIT="range"), is_train=False)(record(tmp_path / "x.png"))["image"]
    assert (image.min(), image.max()) == (0, 255)


def test_mapper__what_it_raises_is_named(tmp_path: Path, colours: np.ndarray) -> None:
    Image.fromarray(colours).save(tmp_path / "x.png")
    for bad in (record(tmp_path / "none.png"), record(tmp_path / "x.png", 60, 80)):
        with pytest.raises(UNUSABLE):
            Mapper(config(), is_train=True)(bad)
