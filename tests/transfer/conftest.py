"""Generated networks and checkpoint files that the transfer tests share."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from tests.transfer.family_files import clove
from transfer.intake import expected_shapes

State = dict[str, torch.Tensor]


@lru_cache
def _random_state(architecture: str, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if len(shape) == 4:
            return torch.randn(shape, generator=generator) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        if name.endswith(("running_var", "weight")):
            # The last scale of a block is small, or the maps grow from block to block until no tensor matters.
            return (0.5 + torch.rand(shape, generator=generator)) * (0.3 if name.endswith("bn3.weight") else 1)
        return 0.3 * torch.randn(shape, generator=generator)

    return {name: draw(name, shape) for name, shape in expected_shapes(architecture).items()}


@pytest.fixture(scope="session")
def random_state() -> Callable[..., State]:
    """`random_state(architecture, seed=0)`: a ResNet whose every tensor is random, batch-norm statistics included.

    Torchvision names, float32. The tensors are shared between the tests: change a copy.
    """
    return _random_state


@pytest.fixture(scope="session")
def clove_content() -> Callable[..., dict]:
    """`clove_content(student, teacher, epoch=200)`: what the authors' training script saves, name for name."""
    return clove


@pytest.fixture(scope="session")
def resnet50_folder(tmp_path_factory, random_state, clove_content) -> tuple[Path, dict, Path]:
    """A CLoVE checkpoint of a random ResNet-50, converted: the folder, the returned certificate, the checkpoint."""
    from transfer.convert import convert  # detectron2 takes seconds to import

    folder = tmp_path_factory.mktemp("convert50")
    source = folder / "ckpt_epoch_200.pth"
    torch.save(clove_content(random_state("resnet50"), random_state("resnet50", 1)), source)
    return folder / "out", convert(source, folder / "out"), source
