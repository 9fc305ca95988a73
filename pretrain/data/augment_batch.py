"""The colour operations of `augment` for whole batches of cut views, on any device.

The loader then only decodes and cuts; what it drew travels along as numbers. Levels are rounded as
`augment` rounds them, so that both ways give the same views but for single levels. Which samples
an operation is for is known on the host: no step here waits for the device.

Legend: N views of one size, S side in pixels.
"""

import torch
from torch import Tensor

from pretrain.data.augment import BRIGHTNESS, CONTRAST, HUE, LONGEST_BLUR, SATURATION, SOLARIZE_THRESHOLD
from pretrain.data.batches import Batch


def finished_views(batch: Batch, device: torch.device) -> list[Tensor]:
    """The batch's groups on `device`, each (V, B, 3, S, S) uint8, with the colours that the loader
    left open."""
    groups = []
    for number, views in enumerate(batch.views):
        views = views.to(device, non_blocking=True)
        if batch.colours:
            drawn = batch.colours[number].flatten(0, 1)
            views = apply(views.flatten(0, 1), drawn).unflatten(0, views.shape[:2])
        groups.append(views)
    return groups


@torch.no_grad()
def apply(views: Tensor, colours: Tensor) -> Tensor:
    """Finish N cut views: (N, 3, S, S) uint8 on any device and (N, 11) float32 on the host, the
    rows of `augment.Colour.row` -> (N, 3, S, S) uint8."""
    drawn = colours.to(views.device, non_blocking=True)[..., None, None, None]  # each column (N, 1, 1, 1)
    factors = drawn[:, 4:7].unbind(1)
    pixels = views.float()
    for place in range(4):
        pixels = _blend(pixels, drawn[:, place], *factors)
        turned = _chosen(drawn[:, place] == HUE, int((colours[:, place] == HUE).sum()))
        if len(turned):
            pixels[turned] = turn_hue(pixels[turned], drawn[turned, 7])
    pixels = torch.where(drawn[:, 8] > 0, luminance(pixels), pixels)
    blurred = _chosen(drawn[:, 9] > 0, int((colours[:, 9] > 0).sum()))
    if len(blurred):
        pixels[blurred] = blur(pixels[blurred], drawn[blurred, 9].flatten())
    inverted = (drawn[:, 10] > 0) & (pixels >= SOLARIZE_THRESHOLD)
    return torch.where(inverted, 255 - pixels, pixels).to(torch.uint8)


def _chosen(mask: Tensor, number: int) -> Tensor:
    """Where the (N, 1, 1, 1) `mask` is true, in order, on its device; `number`, counted on the
    host, is how often: to copy the places from the host, or to let the device count them, would
    make the host wait."""
    return mask.flatten().to(torch.uint8).argsort(descending=True, stable=True)[:number]


def _blend(pixels: Tensor, operation: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Distances from black, from the mean grey or from the pixel's own grey times a factor; other
    views stay."""
    grey = luminance(pixels)
    mean_grey = (grey.mean((1, 2, 3), keepdim=True) + 0.5).floor()
    base = torch.where(operation == SATURATION, grey, torch.zeros_like(operation))
    base = torch.where(operation == CONTRAST, mean_grey, base)
    factor = torch.ones_like(operation)
    for number, value in ((BRIGHTNESS, brightness), (CONTRAST, contrast), (SATURATION, saturation)):
        factor = torch.where(operation == number, value, factor)
    return torch.addcmul(base, factor, pixels - base).clamp_(0, 255).floor_()


def luminance(pixels: Tensor) -> Tensor:
    """(N, 3, S, S) levels -> (N, 1, S, S) whole levels."""
    red, green, blue = pixels.split(1, dim=1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).round_()


def turn_hue(pixels: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of (N, 3, S, S) levels by `shift` (N, 1, 1, 1), a share of a circle."""
    red, green, blue = pixels.unbind(1)
    high, low = pixels.amax(1), pixels.amin(1)
    spread = high - low
    safe = spread.clamp(min=1)
    sixth = torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sixth = torch.where(high == red, (green - blue) / safe, sixth)
    hue = (sixth * (256 / 6)).round_().remainder_(256).mul_(255 / 256).floor_()  # as augment.HUE_255
    around = (hue + (shift[:, 0] * 255).trunc()).remainder_(256) * (6 / 255)
    saturation = (255 * spread / high.clamp(min=1)).round_() / 255
    channels = [high * (1 - saturation * _share(around + offset)) for offset in (5, 3, 1)]
    return torch.stack(channels, dim=1).round_()


def _share(place: Tensor) -> Tensor:
    """How far a channel lies below the highest one, 0..1, at a place on the circle of six."""
    place = place.remainder(6)
    return torch.minimum(place, 4 - place).clamp_(0, 1)


def blur(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian of `sigma` (N,) pixels on (N, 3, S, S) levels, cut off at three sigmas; the
    border's pixels go on.

    Each axis is one matrix product: per-sample kernels without a grouped convolution of N groups.
    """
    side = pixels.shape[-1]
    at = torch.arange(side, device=pixels.device)
    beyond = torch.arange(-LONGEST_BLUR, side + LONGEST_BLUR, device=pixels.device)
    distance = (at[:, None] - beyond).abs()
    sigma = sigma[:, None, None]
    weights = torch.exp(-distance**2 / (2 * sigma**2)) * (distance <= (3 * sigma).round())
    weights = weights / weights.sum(-1, keepdim=True)  # (N, S, S + 2 LONGEST_BLUR)
    matrix = weights[..., LONGEST_BLUR:-LONGEST_BLUR].clone()
    matrix[..., 0] += weights[..., :LONGEST_BLUR].sum(-1)
    matrix[..., -1] += weights[..., -LONGEST_BLUR:].sum(-1)
    for _ in range(2):  # along the rows, then (turned) along the columns
        pixels = torch.bmm(pixels.flatten(1, 2), matrix.mT).unflatten(1, (3, side)).mT
    return pixels.round().clamp_(0, 255)
