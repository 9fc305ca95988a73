"""A converted checkpoint that the fine-tuning tests share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.common.backbone_file import BackboneInfo, save_backbone


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory, random_state: Callable) -> Path:
    """A converted ResNet-18."""
    from transfer.conversion.convert import convert  # detectron2 takes seconds to import

    folder = tmp_path_factory.mktemp("converted")
    save_backbone(folder / "source.safetensors", random_state("resnet18"),
                  BackboneInfo(method="CLoVE", architecture="resnet18", epochs=7, branch="student"))
    convert(folder / "source.safetensors", folder / "out")
    return folder / "out"
