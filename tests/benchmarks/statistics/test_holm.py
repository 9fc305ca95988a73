"""Holm's correction by hand."""

import pytest

from benchmarks.statistics.holm import holm


def test_holm__by_hand() -> None:
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 which may not be below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm__no_probability_above_1_one_alone_unchanged_and_equal_ones_alike() -> None:
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([]) == []
    assert holm([0.02, 0.02]) == [0.04, 0.04]
