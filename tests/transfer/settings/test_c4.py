"""The C4 model: where its tensors lie, that weights reach all of them, and what its extra norm layer does."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import Res5ROIHeads
from detectron2.structures import Boxes
from torch import nn

from pretrain.common.backbone_file import BackboneInfo, save_backbone
from pretrain.common.errors import UserError
from tests.transfer.resolved import resolve
from transfer.conversion.convert import convert
from transfer.conversion.proof import assert_loaded
from transfer.conversion.stage_maps import relative_differences, torchvision_maps
from transfer.data.dataset import Dataset, Split
from transfer.finetuning.batch_norm import joined

SPLIT = Split(2, Path("annotations.json"), Path("images"), "0" * 64)


def resolved(task: str, architecture: str = "resnet18", **words: object) -> CfgNode:
    classes = ("disc", "star") if task == "coco-c4" else tuple("abcdefghijklmnopqrst")
    parts = ("boxes", "masks") if task == "coco-c4" else ("boxes",)
    return resolve(Dataset(task, SPLIT, SPLIT, classes, parts), "c4", "demo", architecture=architecture, **words)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, random_state: Callable) -> Callable[[str], Path]:
    """`converted(architecture)`: detectron2.pkl of a random ResNet."""
    return functools.cache(lambda name: _convert(tmp_path_factory.mktemp(name), random_state, name))


def _convert(folder: Path, random_state: Callable, architecture: str) -> Path:
    save_backbone(folder / "source.safetensors", random_state(architecture),
                  BackboneInfo(method="CLoVE", architecture=architecture, epochs=7, branch="student"))
    convert(folder / "source.safetensors", folder / "out")
    return folder / "out" / "detectron2.pkl"


@pytest.mark.parametrize(("architecture", "tensors"), [
    ("resnet18", 100), pytest.param("resnet50", 265, marks=pytest.mark.slow)])
def test_model__holds_every_converted_tensor_and_computes_the_same_res5(
    architecture: str, tensors: int, converted: Callable, random_state: Callable
) -> None:
    pkl = converted(architecture)
    model = build_model(resolved("voc", architecture))
    with pytest.raises(UserError, match=f"expected all {tensors} backbone tensors"):
        assert_loaded(model, pkl)  # not yet
    DetectionCheckpointer(model).load(str(pkl))
    assert assert_loaded(model, pkl) == tensors
    assert sum(name.startswith("roi_heads.res5.") for name in model.state_dict()) > 10

    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torchvision_maps(random_state(architecture), architecture, images)
    model.double().eval()
    with torch.no_grad():
        found = model.backbone(images)["res4"]
        found = {"res4": found, "res5": model.roi_heads.res5(found)}
    differences = relative_differences({stage: expected[stage] for stage in found}, found)
    assert all(value < 1e-9 for value in differences.values())


def test_assert_loaded__a_tensor_of_res5_that_is_another_is_named(converted: Callable) -> None:
    pkl = converted("resnet18")
    model = build_model(resolved("voc"))
    DetectionCheckpointer(model).load(str(pkl))
    with torch.no_grad():
        model.roi_heads.res5[1].conv2.norm.running_var[3] += 1e-3
    with pytest.raises(UserError, match=r"1 different \(res5.1.conv2.norm.running_var\)"):
        assert_loaded(model, pkl)


@pytest.mark.parametrize(("processes", "device", "norm"), [(1, "cpu", "BatchNorm2d"), (2, "cpu", "CountedBatchNorm"),
                                                           (2, "cuda", "CountedBatchNorm")])
def test_norm__is_of_the_backbones_kind_after_res5(processes: int, device: str, norm: str) -> None:
    cfg = resolved("voc", num_gpus=processes, device=device).clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    heads = joined(build_model(cfg)).roi_heads
    kinds = {type(part).__name__ for part in heads.modules() if type(part).__name__.endswith(("Norm", "Norm2d"))}
    assert kinds == {norm} and heads.res5_norm.num_features == 512
    assert all(parameter.requires_grad for parameter in heads.parameters())


def test_roi_transform__is_detectron2s_own_and_then_the_norm() -> None:
    heads = build_model(resolved("voc")).roi_heads.train()
    features = [torch.randn(1, 256, 8, 8, generator=torch.Generator().manual_seed(0))]
    boxes = [Boxes(torch.tensor([[0.0, 0, 64, 64], [16, 16, 100, 90]]))]
    found = heads._shared_roi_transform(features, boxes)
    own = Res5ROIHeads._shared_roi_transform(heads, features, boxes)
    expected = nn.functional.batch_norm(own, None, None, training=True, eps=heads.res5_norm.eps)
    assert found.shape == (2, 512, 7, 7) and torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, own, atol=1e-2)


@pytest.mark.parametrize(("task", "masks"), [("coco-c4", True), ("voc", False)])
def test_model__has_masks_or_not(task: str, masks: bool) -> None:
    heads = build_model(resolved(task)).roi_heads
    assert hasattr(heads, "mask_head") == masks
    if masks:  # res5's map, one deconvolution, one prediction: no convolution of its own
        assert [type(part).__name__ for part in heads.mask_head.children()] == ["ConvTranspose2d", "ReLU", "Conv2d"]
