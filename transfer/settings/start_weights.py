"""Where a fine-tuning starts: a converted checkpoint with its certificate, or one of the random initialisations.

Each says which pixels it wants. Random weights come three ways, because the literature's random
rows differ from the self-supervised ones in more than the weights, and because the last batch-norm
gamma of a residual block moves AP. detectron2's own ResNet draws He normal (fan out) convolutions
and leaves every gamma at 1: the line that would set the last one of a block to 0 is commented out
in its modeling/backbone/resnet.py. Its heads are initialised the same way for all methods.
"""

from dataclasses import dataclass
from pathlib import Path

from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torch import nn

from pretrain.common.architectures import STANDARD
from pretrain.common.backbone_file import BackboneInfo
from pretrain.common.errors import refuse
from transfer.conversion import random_convolutions
from transfer.conversion.certificate import CERTIFICATE, read_certificate
from transfer.conversion.writers import pixel_format
from transfer.reading import families
from transfer.settings.random_starts import RANDOM_STARTS

# RGB: self-supervised methods and torchvision (PixPro, DenseCL, MoCo, SlotCon, SetSim); BGR: MSRA's
# Caffe weights, and the random rows of configs that inherit their base (DenseCL, ORL).
RGB_PIXELS = pixel_format(BackboneInfo("", STANDARD))
MSRA_PIXELS = pixel_format(BackboneInfo("", STANDARD, **families.MSRA_PIXELS))
DETECTRON2_INIT = "detectron2: He normal (fan out), every batch-norm gamma 1"
ZERO_GAMMA_INIT = "detectron2: He normal (fan out), the last batch-norm gamma of each backbone block 0, others 1"


@dataclass(frozen=True)
class Weights:
    """The starting point, as result.json records it; `pkl` is empty for random initialisation."""

    method: str
    architecture: str
    pixel_format: dict  # channel_order, mean and std in 0..255 in that order, stride_in_1x1
    init: str = "converted checkpoint"
    epochs: int | None = None
    branch: str | None = None
    pkl: str = ""
    pkl_sha256: str | None = None
    pretraining: dict | None = None  # which pretraining of this project made it, see `BackboneInfo`
    conversion: dict | None = None

    def record(self) -> dict:
        """The entry of result.json."""
        fpn = bool(self.conversion and self.conversion["fpn"]["transferred"])
        return {"method": self.method, "epochs": self.epochs, "branch": self.branch, "init": self.init,
                "architecture": self.architecture, "standard": self.architecture == STANDARD,
                "pixel_format": self.pixel_format, "fpn": fpn, "pkl_sha256": self.pkl_sha256,
                "pretraining": self.pretraining, "conversion": self.conversion}


def read_weights(weights: str, architecture: str = STANDARD) -> Weights:
    """The starting weights: a name of `RANDOM_STARTS` (of that architecture), or a converted
    folder, checked against its certificate."""
    for start in RANDOM_STARTS:
        if weights == start.weights:
            pixels = MSRA_PIXELS if start.msra_pixels else RGB_PIXELS
            init = ZERO_GAMMA_INIT if start.zero_gamma else DETECTRON2_INIT
            return Weights(start.row, architecture, pixels, init)
    folder = Path(weights)
    pkl = folder / "detectron2.pkl"
    refuse((not (folder / CERTIFICATE).is_file() or not pkl.is_file(),
            f"{folder} is not a converted checkpoint: expected conversion.json and detectron2.pkl "
            f"in it; run `clove convert FILE --output {folder}`, or give one of "
            f"{', '.join(start.weights for start in RANDOM_STARTS)}"))
    conversion = read_certificate(folder)
    redrawn = conversion.get("random_convolutions") is not None
    init = random_convolutions.INIT if redrawn else Weights.init
    return Weights(conversion["method"], conversion["architecture"], conversion["pixel_format"], init,
                   conversion["epochs"], conversion["branch"], str(pkl),
                   conversion["targets"]["detectron2"]["sha256"], conversion.get("pretraining"), conversion)


def zero_last_gammas(model: nn.Module) -> int:
    """Set the gamma of the last batch norm of every residual block of a detectron2 model to 0;
    returns how many."""
    number = 0
    for block in model.modules():
        if isinstance(block, BottleneckBlock | BasicBlock):
            nn.init.zeros_(getattr(block, "conv3", block.conv2).norm.weight)
            number += 1
    return number
