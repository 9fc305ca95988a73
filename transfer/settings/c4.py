"""The region heads of the C4 tasks: res5 on every region, with one more norm layer after it.

detectron2's Res5ROIHeads leaves res5's output as it is. Self-supervised backbones are compared with
a further norm layer of the backbone's kind behind it (MoCo, PixPro, DenseCL, SetSim call theirs
Res5ROIHeadsExtraNorm): without it the box predictor meets features of another scale for each
method.
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.backbone.resnet import ResNet
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from detectron2.structures import Boxes
from torch import nn


@ROI_HEADS_REGISTRY.register()
class NormedRes5ROIHeads(Res5ROIHeads):
    """Res5ROIHeads with a norm layer of type MODEL.RESNETS.NORM after res5, and for every depth of
    the backbone."""

    @configurable
    def __init__(self, *, res5_norm: nn.Module, **arguments: object) -> None:
        super().__init__(**arguments)
        # Not inside res5, which then holds the converted backbone's tensors and no others.
        self.res5_norm = res5_norm

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict:
        """The arguments that `cfg` means."""
        arguments = super().from_config(cfg, input_shape)
        channels = arguments["box_predictor"].cls_score.in_features
        return {**arguments, "res5_norm": get_norm(cfg.MODEL.RESNETS.NORM, channels)}

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        """(res5, its output channels): the last stage of a ResNet of this depth; detectron2's own
        is ResNet-50's."""
        resnets = cfg.MODEL.RESNETS
        options = {"norm": resnets.NORM}
        if resnets.DEPTH >= 50:  # bottlenecks
            options["stride_in_1x1"] = resnets.STRIDE_IN_1X1
        blocks = ResNet.make_default_stages(resnets.DEPTH, **options)[-1]
        return nn.Sequential(*blocks), blocks[-1].out_channels

    def _shared_roi_transform(self, features: list[torch.Tensor], boxes: list[Boxes]) -> torch.Tensor:
        """[R, C, 7, 7] of the R regions `boxes` of all images."""
        return self.res5_norm(super()._shared_roi_transform(features, boxes))
