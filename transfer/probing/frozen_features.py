"""Sources of dense features that are not trained: a backbone from any checkpoint, a random one, the pixels themselves.

Legend: N images, H W pixels, C channels, S stride, h = H / S and w = W / S.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from fvcore.nn.precise_bn import update_bn_stats
from torch import Tensor, nn

from pretrain.common.architectures import STANDARD
from pretrain.common.atomic import sha256_file
from pretrain.common.backbone_file import BackboneInfo
from pretrain.common.errors import refuse
from transfer.conversion.certificate import open_certificate
from transfer.conversion.stage_maps import move_strides_to_1x1
from transfer.reading.intake import read_checkpoint
from transfer.settings.random_starts import RAND

LAYERS = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}  # a stage under detectron2's name, and its stride


@dataclass(frozen=True)
class Weights:
    """A backbone to probe: torchvision names, what it is, and what probe.json says of its origin.
    """

    state: dict[str, Tensor]
    info: BackboneInfo
    record: dict


def read_weights(weights: str, architecture: str = STANDARD, seed: int = 0, branch: str | None = None,
                 trust: bool = False) -> Weights:
    """`weights`: a folder that `convert` wrote, a backbone.safetensors or any checkpoint file, or
    "random".

    `architecture` and `seed` are of random weights. Raises `UserError` as `read_checkpoint`, and
    when a folder is not a whole conversion.
    """
    if weights == RAND.weights:
        return random_weights(architecture, seed)
    path, conversion = Path(weights), None
    if path.is_dir():
        certificate, path = path / "conversion.json", path / "backbone.safetensors"
        for file in (certificate, path):
            refuse((not file.is_file(), f"{path.parent} has no {file.name}: expected a folder that `clove "
                                        "convert` wrote, a checkpoint file, or random"))
        conversion, found = open_certificate(certificate), sha256_file(path)
        refuse((conversion["canonical_sha256"] != found,
                f"{path} is not the file that {certificate} certifies (its SHA-256 is "
                f"{found[:12]}...): convert the checkpoint again"))
    reading = read_checkpoint(path, branch, trust)
    method = conversion["method"] if conversion else reading.info.method
    return Weights(reading.state, reading.info, {
        "method": method, "epochs": reading.info.epochs, "branch": reading.info.branch,
        "architecture": reading.info.architecture, "standard": reading.info.architecture == STANDARD,
        "file_sha256": reading.sha256, "source_sha256": reading.info.source_sha256, "conversion": conversion})


def random_weights(architecture: str, seed: int, last_gamma: float = 1.0) -> Weights:
    """torchvision's initialisation (He normal, fan out; as detectron2's), with the last batch-norm
    weight of each residual block set to `last_gamma`: 1 is detectron2's start, 0 that of most
    pretrainings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = torchvision.models.get_model(architecture, weights=None, zero_init_residual=last_gamma == 0)
    state = {name: value for name, value in network.state_dict().items()
             if not name.startswith("fc.") and not name.endswith("num_batches_tracked")}
    info = BackboneInfo(method=RAND.row, architecture=architecture)
    return Weights(state, info, {
        "method": RAND.row, "epochs": None, "branch": None, "architecture": architecture,
        "standard": architecture == STANDARD, "file_sha256": None, "source_sha256": None, "conversion": None})


class FrozenBackbone(nn.Module):
    """A ResNet up to `layer`, in evaluation mode: (N, 3, H, W) uint8 RGB -> (N, C, h, w) float32.
    """

    def __init__(self, weights: Weights, layer: str) -> None:
        super().__init__()
        info = weights.info
        network = torchvision.models.get_model(info.architecture, weights=None)
        network.load_state_dict(weights.state, strict=False)
        if info.stride_in_1x1:
            move_strides_to_1x1(network)
        stages = [network.layer1, network.layer2, network.layer3, network.layer4][:list(LAYERS).index(layer) + 1]
        self.body = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool, *stages)
        self.stride, self.bgr = LAYERS[layer], info.channel_order == "BGR"
        self.register_buffer("mean", 255 * torch.tensor(info.pixel_mean).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(info.pixel_std).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, pixels: Tensor) -> Tensor:
        if self.bgr:
            pixels = pixels.flip(1)
        return self.body((pixels - self.mean) / self.std)

    def recalibrate(self, batches: Iterable[Tensor], number: int) -> None:
        """Replace batch norm's statistics by those of the whole population of `number` batches of
        uint8 images."""
        self.body.train()
        update_bn_stats(self, batches, number)
        self.eval()


class PixelStatistics(nn.Module):
    """What the pixels of a cell say without a network: mean and standard deviation of each colour,
    C = 6."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.stride = LAYERS[layer]

    def forward(self, pixels: Tensor) -> Tensor:
        values = pixels.float() / 255
        mean = F.avg_pool2d(values, self.stride)
        return torch.cat([mean, (F.avg_pool2d(values.square(), self.stride) - mean.square()).clamp(min=0).sqrt()], 1)
