"""The starting point says which pixels it wants, and the config feeds them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from pretrain.common.backbone_file import BackboneInfo, save_backbone
from pretrain.common.errors import UserError
from tests.transfer.resolved import resolve
from transfer.conversion.convert import convert
from transfer.data.dataset import Dataset, Split
from transfer.settings import resolved_config
from transfer.settings.start_weights import read_weights, zero_last_gammas
from transfer.trained.diff import config_differences

SPLIT = Split(2, Path("annotations.json"), Path("images"), "0" * 64)
DATASET = Dataset("coco", SPLIT, SPLIT, ("disc", "star"), ("boxes", "masks"))
SMALL = ("MODEL.FPN.OUT_CHANNELS=16", "MODEL.ROI_BOX_HEAD.CONV_DIM=16", "MODEL.ROI_BOX_HEAD.FC_DIM=16",
         "MODEL.ROI_MASK_HEAD.CONV_DIM=16")
RGB = {"INPUT.FORMAT": "RGB", "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
       "MODEL.PIXEL_STD": [58.395, 57.12, 57.375], "MODEL.RESNETS.STRIDE_IN_1X1": False}


def resolved(pixels: dict | None, architecture: str = "resnet50", overrides: tuple = ()) -> resolved_config.CfgNode:
    return resolve(DATASET, "2fc", "full", overrides, pixel_format=pixels, architecture=architecture)


def converted(folder: Path, state: dict, **header: object) -> Path:
    info = BackboneInfo(method="CLoVE", architecture="resnet18", epochs=7, branch="student", **header)
    save_backbone(folder / "source.safetensors", state, info)
    convert(folder / "source.safetensors", folder / "out")
    return folder / "out"


def pixels_of(cfg: resolved_config.CfgNode) -> dict:
    flat = resolved_config.flatten(resolved_config.plain(cfg))
    return {key: flat[key] for key in RGB}


def test_random__has_the_pixels_of_the_self_supervised_methods(random_state: Callable, tmp_path: Path) -> None:
    certificate = json.loads((converted(tmp_path, random_state("resnet18")) / "conversion.json").read_text())
    start, method = read_weights("random", "resnet18"), read_weights(str(tmp_path / "out"))
    assert start.pixel_format == method.pixel_format == certificate["pixel_format"]
    assert pixels_of(resolved(start.pixel_format)) == pixels_of(resolved(None)) == RGB  # exactly, and the base file's
    one, other = (resolved_config.plain(resolved(weights.pixel_format, "resnet18")) for weights in (start, method))
    assert one == other  # rows differ in their weights and in nothing else
    assert (method.epochs, method.branch, method.init) == (7, "student", "converted checkpoint")


def test_random_msra__is_detectron2s_own_default() -> None:
    start, stock = read_weights("random-msra"), get_cfg()
    cfg = resolved(start.pixel_format)
    assert cfg.INPUT.FORMAT == stock.INPUT.FORMAT == "BGR"
    assert cfg.MODEL.PIXEL_MEAN == stock.MODEL.PIXEL_MEAN and cfg.MODEL.PIXEL_STD == stock.MODEL.PIXEL_STD
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is stock.MODEL.RESNETS.STRIDE_IN_1X1 is True
    assert start.method == "Rand init (MSRA pixels)" and start.pkl == "" and start.pkl_sha256 is None
    other = resolved(read_weights("random").pixel_format)
    changed = config_differences(resolved_config.plain(cfg), resolved_config.plain(other))
    assert set(changed) == set(RGB)


def test_pixels__the_network_sees_what_the_certificate_says(random_state: Callable, tmp_path: Path) -> None:
    """A BGR backbone whose last epoch was seen at another scale: the model normalises as its certificate says."""
    folder = converted(tmp_path, random_state("resnet18"), channel_order="BGR", pixel_mean=(0.4, 0.45, 0.5),
                       pixel_std=(0.2, 0.25, 1.0))
    pixels = read_weights(str(folder)).pixel_format
    assert pixels == {"channel_order": "BGR", "mean": [102.0, 114.75, 127.5], "std": [51.0, 63.75, 255.0],
                      "stride_in_1x1": False}
    cfg = resolved(pixels, "resnet18", SMALL)
    assert cfg.INPUT.FORMAT == "BGR"
    seen = build_model(cfg).preprocess_image([{"image": torch.full((3, 32, 32), 153.0)}]).tensor[0, :, 0, 0]
    assert torch.allclose(seen, torch.tensor([1.0, 0.6, 0.1]))


def test_random__detectron2_leaves_the_last_gamma_at_one() -> None:
    for architecture, blocks in (("resnet18", 8), ("resnet50", 16)):
        model = build_model(resolved(None, architecture, SMALL))
        norms = [value for name, value in model.state_dict().items() if name.endswith("norm.weight")]
        assert len(norms) > 16 and all(torch.all(value == 1) for value in norms)
        assert zero_last_gammas(model) == blocks
        last = "conv2" if architecture == "resnet18" else "conv3"
        for name, value in model.state_dict().items():
            if name.endswith("norm.weight"):
                zero = ".res" in name and name.endswith(f"{last}.norm.weight")
                assert torch.all(value == (0 if zero else 1)), name


def test_read_weights__folder_that_is_no_conversion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a converted checkpoint: expected conversion.json and detectron2.pkl "
                                        r"in it.*give one of random, random-msra, random-zero-gamma"):
        read_weights(str(tmp_path))
