"""The ResNets that can be pretrained, converted and fine-tuned. Standard library only."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Architecture:
    """A ResNet of torchvision. `layers`: blocks of each stage; `bottleneck`: whether a block is
    1x1, 3x3 and 1x1; `weights`: trained ones with CLoVE's heads, rounded up."""

    title: str
    depth: int
    layers: tuple[int, int, int, int]
    bottleneck: bool
    weights: float


ARCHITECTURES = {
    "resnet18": Architecture("ResNet-18", 18, (2, 2, 2, 2), bottleneck=False, weights=15e6),
    "resnet34": Architecture("ResNet-34", 34, (3, 4, 6, 3), bottleneck=False, weights=25e6),
    "resnet50": Architecture("ResNet-50", 50, (3, 4, 6, 3), bottleneck=True, weights=33.5e6),
}
SMALLEST, STANDARD = "resnet18", "resnet50"  # the published protocols have the standard one
ArchitectureName = Literal[tuple(ARCHITECTURES)]
