"""The reference of the step benchmark: the usual way to write it, and not to be made faster.

fp32 and contiguous tensors; torch's multi-head attention with its weights; one loss call for each
view pair; LARS and the moving average as loops over tensors, LARS asking the host for every norm;
statistics by `.item()`. It computes the `released` variant (docs/variants.md), whose rule is
written here once more, from the description and not from pretrain/, so that the two check each
other.

Legend: B images, C channels, Q student cells, L teacher cells, boxes (B, 4) x0 y0 x1 y1 as
fractions of the image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

from pretrain.common.architectures import ARCHITECTURES

LAMBDA, MARGIN, RATIO, NEAREST = 2.0, 100.0, 0.7, 10
TRUST, EPS = 1e-3, 1e-8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def encoder(architecture: str) -> nn.Module:
    """torchvision's ResNet without pooling and classifier."""
    network = getattr(resnet, architecture)()
    del network.fc
    network.forward = lambda x: network.layer4(network.layer3(network.layer2(network.layer1(
        network.maxpool(network.relu(network.bn1(network.conv1(x))))))))
    return network


def projector(channels: int, hidden: int, dim: int) -> nn.Module:
    """The convolutional MLP of the method."""
    return nn.Sequential(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True),
                         nn.Conv2d(hidden, dim, 1, bias=False), nn.BatchNorm2d(dim, affine=False))


class Networks(nn.Module):
    """Student and teacher under the names of our state dicts."""

    def __init__(self, architecture: str, hidden: int, dim: int, heads: int) -> None:
        super().__init__()
        channels = 2048 if ARCHITECTURES[architecture].bottleneck else 512
        self.student = nn.ModuleDict({"encoder": encoder(architecture), "projector": projector(channels, hidden, dim),
                                      "attention": nn.MultiheadAttention(dim, heads, batch_first=True)})
        self.teacher = nn.ModuleDict({"encoder": encoder(architecture), "projector": projector(channels, hidden, dim)})
        self.teacher.requires_grad_(False)

    def contextualized(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, C, H, W) of unit length over C."""
        maps = self.student["projector"](self.student["encoder"](images))
        cells = maps.flatten(2).transpose(1, 2)
        mixed, _ = self.student["attention"](cells, cells, cells, need_weights=True)
        return F.normalize(mixed.transpose(1, 2).reshape(maps.shape), dim=1)

    @torch.no_grad()
    def projected(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, C, H, W) of unit length over C."""
        return F.normalize(self.teacher["projector"](self.teacher["encoder"](images)), dim=1)


def positives(student_boxes: Tensor, teacher_boxes: Tensor, student_side: int, teacher_side: int) -> Tensor:
    """(B, Q, L) bool: cells nearer than RATIO of the larger of the two cell diagonals, in
    fractions of the image."""

    def places(boxes: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        steps = torch.arange(side, dtype=boxes.dtype, device=boxes.device) + 0.5
        width, height = (boxes[:, 2] - boxes[:, 0]) / side, (boxes[:, 3] - boxes[:, 1]) / side
        x = (boxes[:, 0, None] + width[:, None] * steps)[:, None, :].expand(-1, side, -1).flatten(1)
        y = (boxes[:, 1, None] + height[:, None] * steps)[:, :, None].expand(-1, -1, side).flatten(1)
        return x, y, torch.sqrt(width ** 2 + height ** 2)

    x, y, diagonal = places(student_boxes, student_side)
    other_x, other_y, other_diagonal = places(teacher_boxes, teacher_side)
    distance = torch.sqrt((x[:, :, None] - other_x[:, None, :]) ** 2 + (y[:, :, None] - other_y[:, None, :]) ** 2)
    return distance / torch.max(diagonal, other_diagonal)[:, None, None] < RATIO


def pair_loss(student: Tensor, teacher: Tensor, student_boxes: Tensor, teacher_boxes: Tensor) -> tuple[Tensor, float]:
    """Loss of one view pair, maps (B, C, H, W) of unit length; and its mean positive cosine."""
    mask = positives(student_boxes, teacher_boxes, student.shape[-1], teacher.shape[-1]).to(student.dtype)
    cosine = torch.einsum("bcq,bcl->bql", student.flatten(2), teacher.flatten(2))
    logits = -2 * cosine
    positive = (logits * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)
    rest = logits.masked_fill(mask.bool(), float("inf"))
    nearest = rest.topk(NEAREST, dim=-1, largest=False).values[..., 1:]
    negative = nearest.mean(-1).mean(-1)
    loss = torch.clamp(MARGIN - negative + LAMBDA * positive, min=0).mean()
    return loss, ((cosine * mask).sum() / mask.sum().clamp(min=1)).item()


class ReferenceStep:
    """One process's training, fp32."""

    def __init__(self, networks: Networks, weight_decay: float, momentum: float) -> None:
        self.networks = networks.train()
        self.weight_decay = weight_decay
        self.optimizer = torch.optim.SGD(self.networks.student.parameters(), lr=0.0, momentum=momentum, foreach=False)

    def loss(self, views: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, float]:
        """Mean over all ordered pairs of a student view and another, global, view; and the mean
        positive cosine."""
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        groups = [(group.to(mean.dtype) / 255 - mean) / std for group in views]
        teacher = self.networks.projected(groups[0].flatten(0, 1)).unflatten(0, groups[0].shape[:2])
        student, all_boxes = [], []
        for group, group_boxes in zip(groups, boxes, strict=True):
            student += self.networks.contextualized(group.flatten(0, 1)).unflatten(0, group.shape[:2])
            all_boxes += group_boxes
        losses, cosines = [], []
        for i, maps in enumerate(student):
            for j, other in enumerate(teacher):
                if i != j:
                    loss, cosine = pair_loss(maps, other, all_boxes[i], all_boxes[j])
                    losses.append(loss)
                    cosines.append(cosine)
        return sum(losses) / len(losses), sum(cosines) / len(cosines)

    def step(self, views: list[Tensor], boxes: list[Tensor], lr: float, teacher_momentum: float) -> float:
        """One optimizer step on (V, B, 3, S, S) uint8 views with (V, B, 4) boxes, global group
        first; the loss."""
        loss, _ = self.loss(views, boxes)
        self.optimizer.zero_grad()
        loss.backward()
        value = loss.item()
        if value == value:
            self._update(lr, teacher_momentum)
        return value

    @torch.no_grad()
    def _update(self, lr: float, momentum: float) -> None:
        for name in ("encoder", "projector"):
            own, other = self.networks.teacher[name].parameters(), self.networks.student[name].parameters()
            for mine, theirs in zip(own, other, strict=True):
                mine.data = mine.data * momentum + theirs.data * (1.0 - momentum)
        # LARS: gradients of matrices and kernels get weight decay and the length TRUST * |w|.
        for weight in self.networks.student.parameters():
            if weight.dim() <= 1:
                continue
            grad = weight.grad
            grad.add_(weight, alpha=self.weight_decay)
            weight_norm, grad_norm = weight.norm(), grad.norm()
            if weight_norm > 0 and grad_norm > 0:
                grad.mul_(TRUST * weight_norm / (grad_norm + EPS))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
