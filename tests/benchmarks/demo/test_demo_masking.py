"""COCO's forms of a mask lead back to the mask."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from benchmarks.demo import masking


def test_polygons__draw_as_the_mask_they_came_from() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((23, 31)) < density for density in (0.2, 0.5, 0.7, 0.95)]  # diagonals, holes, borders
    masks.append(np.ones((23, 31), bool))
    for mask in masks:
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(masking.polygons(mask), *mask.shape)))
        assert np.array_equal(drawn.astype(bool), mask)


def test_polygons__count_pieces_and_leave_out_specks() -> None:
    mask = np.zeros((20, 20), bool)
    mask[2:6, 2:6] = mask[10:14, 2:6] = mask[17, 17] = True
    assert masking.polygons(mask, smallest=2) == [[2, 2, 6, 2, 6, 6, 2, 6], [2, 10, 6, 10, 6, 14, 2, 14]]


@pytest.mark.parametrize("first", [False, True])
def test_run_lengths__decode_to_the_mask(first: bool) -> None:
    mask = np.random.default_rng(1).random((7, 9)) < 0.4
    mask[0, 0] = first
    coded = masking.run_lengths(mask)
    assert np.array_equal(coco_mask.decode(coco_mask.frPyObjects(coded, 7, 9)).astype(bool), mask)
