"""Whether detectron2 can make a network, an optimizer and training images of a config: asked before anything runs.

`--set` may give a value of the right type that means nothing (a feature map that does not exist, an
unknown warm-up). detectron2 finds that when it builds, in words of its own; here that costs a
twentieth of a second and no memory.
"""

import warnings

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import build_augmentation
from detectron2.data.transforms import AugInput, AugmentationList, RandomCrop
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer

from pretrain.common.errors import UserError
from transfer.detectron2_compat import apply, quiet

HEIGHT, WIDTH = 480, 640  # of an image like COCO's


def assert_buildable(cfg: CfgNode, source: str, training: bool = True) -> None:
    """Build everything that `cfg` describes, without memory for its weights, and cut one black
    image as in training.

    `source`: where its values are from, named in the error. Without `training` only the network.
    Raises `UserError` with detectron2's reason.
    """
    apply()
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    place = "the network"
    try:
        # What detectron2 has to say it says to the log of the run.
        with torch.device("meta"), quiet(), warnings.catch_warnings(action="ignore"):
            model = build_model(cfg)
            if not training:
                return
            place = "optimizer and schedule"
            optimizer = build_optimizer(cfg, model)
            if cfg.SOLVER.MAX_ITER:  # none: the start itself is evaluated
                build_lr_scheduler(cfg, optimizer)
        place = "the training images"
        crop = [RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE)] if cfg.INPUT.CROP.ENABLED else []
        AugmentationList([*crop, *build_augmentation(cfg, True)])(AugInput(np.zeros((HEIGHT, WIDTH, 3), np.uint8)))
    except Exception as error:  # whatever detectron2, torch or a registry say to a value that means nothing
        why = " ".join(str(error).split()) or "no reason given"
        raise UserError(f"{source}: {place} cannot be built with this ({type(error).__name__}: "
                        f"{why[:200]})") from None
