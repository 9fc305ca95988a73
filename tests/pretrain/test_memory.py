"""A pretraining's memory by arithmetic, beside what a step keeps for its backward pass on a GPU that is not there."""

import pytest
import torch
from torch import Tensor, nn

from pretrain import memory
from pretrain.common.architectures import ARCHITECTURES
from pretrain.config import load_config
from pretrain.distributed import Process
from pretrain.trainer import Trainer
from tests.fake_gpu import GPU, fake_gpu
from tests.pretrain.objectives.test_objectives import CLASSES, labelled, settings


def kept_by(trainer: Trainer, images: int) -> int:
    """Bytes that the forward pass of so many images keeps, each memory once, weights left out."""
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        trainer.loss(labelled(trainer.config, images))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(("architecture", "precision", "stride"), [
    ("resnet18", "bf16", 2), pytest.param("resnet50", "fp16", 2, marks=pytest.mark.slow),
    pytest.param("resnet50", "fp32", 1, marks=pytest.mark.slow)])
def test_kept__is_what_a_step_keeps(architecture: str, precision: str, stride: int) -> None:
    config = settings("clove", architecture=architecture, precision=precision, last_stage_stride=stride, device="cuda",
                      global_size=224, local_size=96, local_views=1, projector_hidden=4096, projector_dim=256,
                      batch_size=4, device_batch=2)
    with fake_gpu():
        trainer = Trainer(config, Process(0, 1, GPU), 6, 2, CLASSES)
        an_image = (kept_by(trainer, 3) - kept_by(trainer, 1)) / 2
    said = (memory.gb(config.train, 3) - memory.gb(config.train, 1)) * memory.GB / 2
    assert said == pytest.approx(an_image, rel=0.05)
    static = sum(weight.numel() for weight in trainer.student.parameters())
    assert ARCHITECTURES[architecture].weights == pytest.approx(static, rel=0.05)


def test_in_words__of_the_published_run() -> None:
    train = load_config("imagenet_200ep", {}).train
    assert memory.in_words(train, 128) == "about 19 GB of each GPU for 128 images at once (arithmetic, not measured)"
    fp32 = load_config(None, {"precision": "fp32"}).train
    assert memory.gb(fp32, 8) - memory.OF_CUDA_GB == pytest.approx(2.7, abs=0.1)
