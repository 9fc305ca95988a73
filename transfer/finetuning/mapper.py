"""detectron2's mapper on the pixels that pretraining and probe see too."""

import copy

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, check_image_size

from pretrain.data.pixels import UnreadableImage, read_pixels

# What an image that cannot be used raises in the mapper.
UNUSABLE = (UnreadableImage, OSError, SyntaxError, SizeMismatchError)


def sixteen_bit(cfg: CfgNode) -> str:
    """How a run reads images of 16 bits, see pretrain/data/pixels.py; the key is there only when
    asked for."""
    return cfg.INPUT.get("SIXTEEN_BIT", "shift")


class Mapper(DatasetMapper):
    """A record of detectron2 -> what its models take, as the parent does; boxes, masks, keypoints
    only."""

    def __init__(self, cfg: CfgNode, is_train: bool) -> None:
        super().__init__(cfg, is_train)
        self.sixteen_bit = sixteen_bit(cfg)

    def __call__(self, record: dict) -> dict:
        """Image (3, H, W) uint8, channels in the order of INPUT.FORMAT, and in training
        `instances`.

        Raises one of `UNUSABLE` for an image that cannot be used.
        """
        record = copy.deepcopy(record)
        pixels = read_pixels(record["file_name"], self.sixteen_bit)
        if self.image_format == "BGR":
            pixels = pixels[:, :, ::-1]
        check_image_size(record, pixels)
        seen = T.AugInput(pixels)
        transforms = self.augmentations(seen)
        record["image"] = torch.as_tensor(np.ascontiguousarray(seen.image.transpose(2, 0, 1)))
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, seen.image.shape[:2])
        return record
