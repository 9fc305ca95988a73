"""Multi-crop views of a photograph that carry their boxes.

Augmentation as in table C.2 of the released recipe (BYOL's policy): crop and resize (bicubic, antialiased), flip,
colour jitter, grey, blur, solarize. Every draw of a view depends on (seed, epoch, image, view) alone, so that any
number of loader processes, and a resumed run, give the same views.

Frame: a box is (x0, y0, x1, y1) as fractions of the source image; a mirrored view has x0 > x1.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from pretrain.config import Numbers

ASPECT_RATIO = (3 / 4, 4 / 3)
FLIP = 0.5
JITTER = 0.8
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
GREY = 0.2
BLUR_SIGMA = (0.1, 2.0)
SOLARIZE_THRESHOLD = 128


@dataclass(frozen=True)
class ViewKind:
    """How one view is drawn: side in pixels, area as a share of the image, probabilities."""

    size: int
    scale: tuple[float, float]
    blur: float
    solarize: float


def view_kinds(numbers: Numbers) -> list[ViewKind]:
    """The global views first, then the local ones. Global views take turns between BYOL's two policies."""
    first = ViewKind(numbers.global_size, numbers.global_scale, blur=1.0, solarize=0.0)
    second = ViewKind(numbers.global_size, numbers.global_scale, blur=0.1, solarize=0.2)
    local = ViewKind(numbers.local_size, numbers.local_scale, blur=0.5, solarize=0.0)
    return [(first, second)[i % 2] for i in range(numbers.global_views)] + [local] * numbers.local_views


def random_crop(rng: np.random.Generator, width: int, height: int, scale: tuple[float, float]) -> tuple[int, ...]:
    """Left, top, right, bottom in whole source pixels: Inception-style, area and aspect ratio drawn ten times, then
    the largest centre crop of an allowed ratio (the rule of torchvision's RandomResizedCrop)."""
    area = width * height
    low, high = math.log(ASPECT_RATIO[0]), math.log(ASPECT_RATIO[1])
    for _ in range(10):
        target = area * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(rng.integers(0, width - w + 1))
            top = int(rng.integers(0, height - h + 1))
            return left, top, left + w, top + h
    if width / height < ASPECT_RATIO[0]:
        w, h = width, min(height, round(width / ASPECT_RATIO[0]))
    elif width / height > ASPECT_RATIO[1]:
        w, h = min(width, round(height * ASPECT_RATIO[1])), height
    else:
        w, h = width, height
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def crop_box(crop: tuple[int, ...], width: int, height: int, mirrored: bool, frame: str) -> np.ndarray:
    """(4,) float32 box of a crop given in whole source pixels.

    frame "edges": crop edges over the image's side, so that 0 and 1 are the image's borders. "pixel_centres" (released
    code): first and last pixel index over (side - 1).
    """
    left, top, right, bottom = crop
    if frame == "edges":
        box = [left / width, top / height, right / width, bottom / height]
    else:
        w, h = max(width - 1, 1), max(height - 1, 1)
        box = [left / w, top / h, (right - 1) / w, (bottom - 1) / h]
    if mirrored:
        box[0], box[2] = box[2], box[0]
    return np.array(box, dtype=np.float32)


def adjust_hue(image: Image.Image, shift: float) -> Image.Image:
    """Turn the hue by `shift` of a full circle (-0.5..0.5)."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(shift * 255) % 256)  # uint8 wraps round, as hue does
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def colour_jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue by random factors, in random order."""
    factors = [rng.uniform(1 - strength, 1 + strength) for strength in (BRIGHTNESS, CONTRAST, SATURATION)]
    shift = rng.uniform(-HUE, HUE)
    for operation in rng.permutation(4):
        if operation == 3:
            image = adjust_hue(image, shift)
        else:
            enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[operation]
            image = enhance(image).enhance(factors[operation])
    return image


def make_view(
    image: Image.Image, kind: ViewKind, rng: np.random.Generator, frame: str = "edges"
) -> tuple[np.ndarray, np.ndarray]:
    """One view of an RGB image: (3, S, S) uint8 and its box (4,) float32."""
    crop = random_crop(rng, image.width, image.height, kind.scale)
    mirrored = rng.random() < FLIP
    box = crop_box(crop, image.width, image.height, mirrored, frame)
    view = image.crop(crop).resize((kind.size, kind.size), Image.Resampling.BICUBIC)
    if mirrored:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < JITTER:
        view = colour_jitter(view, rng)
    if rng.random() < GREY:
        view = ImageOps.grayscale(view).convert("RGB")
    if rng.random() < kind.blur:
        view = view.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_SIGMA)))
    if rng.random() < kind.solarize:
        view = ImageOps.solarize(view, SOLARIZE_THRESHOLD)
    return np.ascontiguousarray(np.asarray(view).transpose(2, 0, 1)), box


def make_views(
    image: Image.Image, numbers: Numbers, epoch: int, index: int
) -> tuple[list[np.ndarray], np.ndarray]:
    """All views of image number `index` in `epoch`: a list of (3, S, S) uint8, and the boxes (V, 4) float32."""
    made = [
        make_view(image, kind, np.random.default_rng([numbers.seed, epoch, index, view]), numbers.box_frame)
        for view, kind in enumerate(view_kinds(numbers))
    ]
    return [pixels for pixels, _ in made], np.stack([box for _, box in made])
