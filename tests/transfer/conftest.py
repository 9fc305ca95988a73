"""Generated networks and checkpoint files that the transfer tests share."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from tests.transfer.dense_files import clove
from transfer.reading.architecture import expected_shapes

State = dict[str, torch.Tensor]


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Notes of checks and plain copies of annotations do not go into the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


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
    from transfer.conversion.convert import convert  # detectron2 takes seconds to import

    folder = tmp_path_factory.mktemp("convert50")
    source = folder / "ckpt_epoch_200.pth"
    torch.save(clove_content(random_state("resnet50"), random_state("resnet50", 1)), source)
    return folder / "out", convert(source, folder / "out"), source


# Thin heads and small images: a whole fine-tuning of a ResNet-18 in seconds.
THIN = (
    "SOLVER.MAX_ITER=4", "SOLVER.STEPS=3,", "SOLVER.CHECKPOINT_PERIOD=2", "TEST.PRECISE_BN.NUM_ITER=2",
    "MODEL.FPN.OUT_CHANNELS=16", "MODEL.ROI_BOX_HEAD.CONV_DIM=16", "MODEL.ROI_BOX_HEAD.FC_DIM=32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM=16", "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS=16,", "INPUT.MIN_SIZE_TRAIN=64,",
    "INPUT.MIN_SIZE_TEST=64",
)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated data of every task: three images to train on, two to validate."""
    from benchmarks.demo import demo_data

    folder = tmp_path_factory.mktemp("small_data") / "demo"
    demo_data.generate(folder, photos=1, train=3, val=2)
    return folder


@pytest.fixture
def thin_request(small_data: Path) -> Callable:
    """`thin_request(output, task="coco", *overrides, **words)`: a `Request` of four iterations of two images."""
    from transfer.finetuning.finetune import Request

    def build(output: Path, task: str = "coco", *overrides: str, **words: object) -> Request:
        values = {"weights": "random", "architecture": "resnet18", "scale": "demo", "device": "cpu", **words}
        return Request(task=task, data=small_data / task, output=output, overrides=(*THIN, *overrides), **values)

    return build


@pytest.fixture
def small(random_state):
    """A ResNet-18 that a test may change: a new dictionary around shared tensors."""
    return dict(random_state("resnet18"))
