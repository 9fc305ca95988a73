"""The usual loader, written plainly: PIL, torchvision's transforms for each view, float32 out."""

import random
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from pretrain.common.backbone_file import IMAGENET_MEAN, IMAGENET_STD


class GaussianBlur:
    """Blur by a sigma drawn from 0.1 to 2 pixels."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def view_transform(size: int, scale: tuple[float, float], blur: float, solarize: float) -> Callable:
    """PIL image -> (3, size, size) float32, normalised."""
    steps = [
        transforms.RandomResizedCrop(size, scale, interpolation=InterpolationMode.BICUBIC),
        transforms.RandomHorizontalFlip(),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([GaussianBlur()], p=blur),
    ]
    if solarize:
        steps.append(transforms.RandomSolarize(128, p=solarize))
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


class ReferenceDataset(Dataset):
    """Image number -> 2 views of 224 and 6 of 96 pixels, each (3, S, S) float32."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        local = view_transform(96, (0.08, 0.3), blur=0.5, solarize=0.0)
        self.transforms = [view_transform(224, (0.2, 1.0), blur=1.0, solarize=0.0),
                           view_transform(224, (0.2, 1.0), blur=0.1, solarize=0.2), *[local] * 6]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> list[Tensor]:
        with open(self.paths[number], "rb") as file:
            image = Image.open(file).convert("RGB")
        return [transform(image) for transform in self.transforms]


def collate(items: list[list[Tensor]]) -> list[Tensor]:
    """Stacked by size: (2, B, 3, 224, 224) and (6, B, 3, 96, 96)."""
    return [torch.stack([torch.stack([item[view] for item in items]) for view in group])
            for group in (range(2), range(2, 8))]
