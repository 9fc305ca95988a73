"""Student, teacher, and the moving average between them.

Legend: V views of one size, B images, C channels, S side in pixels, H W feature grid.
"""

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn

from pretrain.attention import NMHSA, unit_length
from pretrain.clove_options import CloveOptions
from pretrain.common.backbone_file import IMAGENET_MEAN, IMAGENET_STD
from pretrain.encoder import Encoder, Projector
from pretrain.options.shared_options import Train


class Student(nn.Module):
    """Encoder, projector and NMHSA; batch norm sees all views of one size together."""

    def __init__(self, train: Train, options: CloveOptions) -> None:
        super().__init__()
        self.encoder = Encoder(train.architecture, train.last_stage_stride)
        self.projector = Projector(self.encoder.channels, options.projector_hidden, options.projector_dim)
        self.attention = NMHSA(options.projector_dim, options.heads, options.attention, options.attention_temperature)

    def forward(self, groups: list[Tensor]) -> list[Tensor]:
        """Groups of normalised views of one size, each (V, B, 3, S, S) -> contextualized maps of
        unit length over C, each (V, B, C, H, W)."""
        return [self.attention(self.projector(self.encoder(views.flatten(0, 1)))).unflatten(0, views.shape[:2])
                for views in groups]


class EncoderAndHead(nn.Module):
    """An encoder and what stands on it; batch norm sees all views of one size together."""

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, groups: list[Tensor]) -> list[Tensor]:
        """Groups of normalised views of one size, each (V, B, 3, S, S) -> what `head` makes of
        (N, C, H, W), each (V, B, ...)."""
        return [self.head(self.encoder(views.flatten(0, 1))).unflatten(0, views.shape[:2]) for views in groups]


class Teacher(nn.Module):
    """Encoder and projector that follow the student by moving average; its batch norm keeps its own
    statistics."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(student.encoder)
        self.projector = copy.deepcopy(student.projector)
        self.requires_grad_(False)
        self.cast: dict[str, Tensor] = {}
        self.register_load_state_dict_post_hook(lambda module, _: module.renew_cast())

    def keep_cast(self, dtype: torch.dtype) -> None:
        """Keep the convolutions' weights in `dtype` too, for `torch.func.functional_call`: autocast
        would cast each of them anew in every step, to the same values, bit for bit."""
        self.cast = {name: weight.to(dtype) for name, weight in self.named_parameters() if weight.dim() == 4}
        self._cast_from = [self.get_parameter(name) for name in self.cast]

    @torch.no_grad()
    def renew_cast(self) -> None:
        """To be called when the weights have changed otherwise than by `follow` and
        `load_state_dict`."""
        if self.cast:
            torch._foreach_copy_(list(self.cast.values()), self._cast_from)

    @torch.no_grad()
    def forward(self, views: Tensor) -> Tensor:
        """(V, B, 3, S, S) normalised global views -> (V, B, C, H, W) projected maps of unit length
        over C."""
        return unit_length(self.projector(self.encoder(views.flatten(0, 1)))).unflatten(0, views.shape[:2])

    @torch.no_grad()
    def follow(self, student: Student, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student, on the parameters."""
        own = list(self.parameters())
        other = [*student.encoder.parameters(), *student.projector.parameters()]
        torch._foreach_lerp_(own, other, 1.0 - momentum)
        self.renew_cast()


def at_least_fp32(values: Tensor) -> Tensor:
    """What autocast gives in half precision, in fp32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def normalise(pixels: Tensor) -> Tensor:
    """(..., 3, S, S) uint8 RGB -> float in the same memory format, ImageNet mean and standard
    deviation removed."""
    mean, std = _mean_and_deviation(pixels.device, torch.get_default_dtype())
    return pixels.to(mean.dtype).sub_(mean).div_(std)


@lru_cache
def _mean_and_deviation(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) each, of values 0..255; kept, because every copy of host values to a GPU makes the
    host wait."""
    both = 255 * torch.tensor([IMAGENET_MEAN, IMAGENET_STD], dtype=dtype).view(2, 3, 1, 1)
    return both.to(device).unbind()
