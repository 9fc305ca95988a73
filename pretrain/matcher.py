"""Equation 1: which cells of two views see the same place.

Legend: N pairs of views (any leading shape), H W feature grid, L = H*W cells in row-major order.
Boxes are (x0, y0, x1, y1) as fractions of the source image; a mirrored view has x0 > x1, so that
the mapping from cell to place needs no separate flip flag.
"""

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Unit = Literal["cell_diagonal", "cell_diagonal_fraction", "pixel"]


def cell_centres(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """Centre of each cell of a view in the source image.

    Args:
        boxes: (..., 4) x0 y0 x1 y1, in any unit of the source image; x0 > x1 for a mirrored view.
        grid: (H, W) of the view's feature map.
    Returns:
        (..., L, 2) x and y of the centres in the unit of `boxes`, row-major.
    """
    first, last = boxes.unsqueeze(-2).unflatten(-1, (2, 2)).unbind(-2)  # (..., 1, 2) corners
    return torch.lerp(first, last, _shares(grid, boxes.dtype, boxes.device))


@lru_cache
def _shares(grid: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(L, 2) how far along x and y of its view each cell's centre lies, 0..1; the same at every
    step."""
    height, width = grid
    along_x = (torch.arange(width, dtype=dtype, device=device) + 0.5) / width
    along_y = (torch.arange(height, dtype=dtype, device=device) + 0.5) / height
    return torch.stack([along_x.repeat(height), along_y.repeat_interleave(width)], dim=-1)


def cell_diagonal(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(...,) length of a cell's diagonal in the unit of `boxes` (..., 4); mirrored views have the
    same diagonal."""
    first, last = boxes.unflatten(-1, (2, 2)).unbind(-2)
    if grid[0] == grid[1]:
        return torch.linalg.vector_norm(last - first, dim=-1) / grid[0]
    width, height = (last - first).unbind(-1)
    return torch.hypot(width / grid[1], height / grid[0])


def match(
    student_boxes: Tensor,
    teacher_boxes: Tensor,
    student_grid: tuple[int, int],
    teacher_grid: tuple[int, int],
    t_pos: float,
    unit: Unit,
    image_sizes: Tensor | None = None,
) -> Tensor:
    """M of eq. 1 as a mask: cells of a student and a teacher view whose centres are closer than
    T_pos.

    Args:
        student_boxes, teacher_boxes: (..., 4) fractions of the source image, broadcastable against
            each other.
        student_grid, teacher_grid: (H, W) of the two feature maps; they may differ (local against
            global views).
        t_pos: the threshold; "closer" is strict.
        unit: of the threshold. "cell_diagonal": the larger of the two cell diagonals, distance and
            diagonals both in source-image pixels. "cell_diagonal_fraction": the same ratio with
            each axis as a fraction of its own image side (released code; elliptic on images that
            are not square). "pixel": source-image pixels (eq. 1 read literally).
        image_sizes: (..., 2) width and height of the source images in pixels; may be None for
            "cell_diagonal_fraction".
    Returns:
        (..., L_student, L_teacher) bool.
    """
    if unit != "cell_diagonal_fraction":
        to_pixels = torch.cat([image_sizes, image_sizes], dim=-1).to(student_boxes.dtype)
        student_boxes, teacher_boxes = student_boxes * to_pixels, teacher_boxes * to_pixels
    distance = torch.cdist(
        cell_centres(student_boxes, student_grid),
        cell_centres(teacher_boxes, teacher_grid),
        compute_mode="donot_use_mm_for_euclid_dist",  # the matmul form loses the digits that decide near T_pos
    )
    if unit != "pixel":
        larger = torch.maximum(cell_diagonal(student_boxes, student_grid), cell_diagonal(teacher_boxes, teacher_grid))
        distance = distance / larger[..., None, None]
    return distance < t_pos
