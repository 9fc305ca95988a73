"""Encoder (a ResNet that returns its last feature map) and the convolutional MLP projector.

Legend: N views, C channels, H W feature grid (7 x 7 for a 224-pixel view, 3 x 3 for 96 pixels, at
stride 32).
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pretrain.common.architectures import ARCHITECTURES, STANDARD, ArchitectureName


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that does not count its batches: the trainer does, in one operation for all layers
    and not one each.

    Nothing in a network reads the count while the momentum is a number.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
                            self.momentum, self.eps)


class Encoder(ResNet):
    """torchvision's ResNet without average pooling and classifier; parameters keep torchvision's
    names.

    Convolutions start from a normal distribution of variance 2 / (k*k*channels out), the last
    batch-norm weight of each block from 0, as in the released code. `last_stage_stride` 1 keeps the
    last stage at stride 16: same tensors, larger grid.
    """

    def __init__(self, architecture: ArchitectureName = STANDARD, last_stage_stride: int = 2) -> None:
        known = ARCHITECTURES[architecture]
        block = Bottleneck if known.bottleneck else BasicBlock
        super().__init__(block, list(known.layers), zero_init_residual=True, norm_layer=BatchNorm)
        self.channels = self.fc.in_features
        del self.fc, self.avgpool
        if last_stage_stride == 1:
            first = self.layer4[0]
            strided = first.conv2 if known.bottleneck else first.conv1
            strided.stride = (1, 1)
            first.downsample[0].stride = (1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) normalised RGB -> (N, C, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class Projector(nn.Sequential):
    """1x1 convolutions with batch norm, the last one without affine: (N, C, H, W) ->
    (N, dim, H, W)."""

    def __init__(self, channels: int, hidden: int, dim: int) -> None:
        super().__init__(
            nn.Conv2d(channels, hidden, 1, bias=False),
            BatchNorm(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, dim, 1, bias=False),
            BatchNorm(dim, affine=False),
        )
