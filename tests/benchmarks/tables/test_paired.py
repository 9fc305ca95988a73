"""Paired differences by hand: which fine-tunings are a pair, and what is independent."""

from dataclasses import replace

import pytest

from benchmarks.tables.paired import Difference, paired
from benchmarks.tables.trial_groups import Group, Place, Trial


def row(values: dict[tuple[int | None, int], float | None], method: str = "CLoVE") -> Group:
    """A row with these values by (seed of the pretraining, trial); the seed of a trial is its number."""
    here = all(seed is not None for seed, _ in values)
    pretraining = {"objective": "clove", "seed": 0} if here else None
    trials = [Trial(Place(seed, trial, trial), "", f"{method} {seed} {trial}", {"AP": value}, None, None, None)
              for (seed, trial), value in values.items()]
    return Group({"weights": {"method": method, "pretraining": pretraining}}, (), {}, "", "", trials)


RANDOM = row({(None, 0): 8.0, (None, 1): 9.2, (None, 2): 11.8}, "Rand init")


def difference(one: Group, other: Group = RANDOM) -> Difference:
    return paired(one, other, "AP", "Rand init")


def test_paired__one_trial_of_each_pretraining_by_hand() -> None:
    found = difference(row({(0, 0): 12.6, (1, 1): 17.4, (2, 2): 8.8}))
    assert found.values == (4.6, 8.2, -3.0) and len(found.pairs) == 3 and found.doubt == ""
    assert found.mean == pytest.approx(3.26667, abs=1e-5)
    assert found.interval == pytest.approx((-10.9371, 17.4705), abs=2e-4)  # tests/benchmarks/statistics/test_t_tests.py
    assert found.p == pytest.approx(0.4267, abs=1e-4)
    assert found.text() == "+3.3 [-10.9, +17.5] n=3"


def test_paired__the_fine_tunings_of_a_pretraining_are_averaged_first() -> None:
    # Differences 2, 2.8, 0.2 of pretraining 5 and 3, 4.8, 3.2 of pretraining 6: means 1.6667 and 3.6667.
    found = difference(row({(5, 0): 10.0, (5, 1): 12.0, (5, 2): 12.0, (6, 0): 11.0, (6, 1): 14.0, (6, 2): 15.0}))
    assert found.values == pytest.approx((5 / 3, 11 / 3), abs=1e-8) and len(found.pairs) == 6
    assert found.interval == pytest.approx((8 / 3 - 12.7062, 8 / 3 + 12.7062), abs=1e-3)  # t(0.975, 1) * 1 * sqrt(2/2)
    assert found.text() == "+2.7 [-10.0, +15.4] n=2 of 6 pairs"  # which the mean of the random starts stands in twice
    assert found.doubt == "2 pretrainings are paired with the same 3: the interval leaves out how far those scatter"


def test_paired__pretrainings_that_share_a_random_start_say_so() -> None:
    found = difference(row({(1, 0): 10.0, (2, 0): 11.0, (3, 0): 12.0}))
    assert found.values == (2.0, 3.0, 4.0) and found.interval
    assert found.doubt == "3 pretrainings are paired with the same 1: the interval leaves out how far those scatter"
    assert difference(RANDOM, row({(1, 0): 10.0, (2, 0): 11.0, (3, 0): 12.0})).doubt == found.doubt


def test_paired__pretrainings_with_random_starts_of_their_own_do_not() -> None:
    random = row({(None, trial): 10.0 + trial % 3 for trial in range(4)}, "Rand init")
    found = difference(row({(1, 0): 11.0, (1, 1): 12.0, (2, 2): 13.0, (2, 3): 15.0}), random)
    assert found.values == (1.0, 3.0) and found.doubt == ""


def test_paired__of_two_pretrained_rows_only_the_seeds_that_both_have_count_whichever_is_first() -> None:
    three = row({(1, 0): 10.0, (2, 0): 11.0, (3, 0): 20.0})
    two = row({(1, 0): 9.0, (2, 0): 12.0}, "half")
    assert (difference(three, two).values, difference(two, three).values) == ((1.0, -1.0), (-1.0, 1.0))


def test_paired__one_pretraining_has_no_interval_however_many_fine_tunings() -> None:
    found = difference(row({(0, 0): 12.6, (0, 1): 17.4, (0, 2): 8.8}))
    assert (found.text(), found.interval, found.p) == ("+3.3 [-] n=1 of 3 pairs", None, None)
    assert found.doubt == "no interval: one pretraining has no spread"
    assert difference(RANDOM, row({(0, 0): 12.6, (0, 1): 17.4, (0, 2): 8.8})).text() == "-3.3 [-] n=1 of 3 pairs"


def test_paired__only_trials_that_both_have_and_that_have_a_value() -> None:
    found = difference(row({(1, 1): 10.0, (2, 2): None, (7, 7): 20.0}))
    assert found.values == (0.8,) and [one.place.trial for one, _ in found.pairs] == [1]
    assert difference(row({(7, 7): 20.0})).text() == "-"
    assert difference(row({(7, 7): 20.0})).doubt == "no fine-tuning of the same trial and seed in both rows"
    other_seed = Group(RANDOM.example, (), {}, "", "", [replace(RANDOM.trials[0], place=Place(None, 0, 5))])
    assert difference(other_seed).values == ()


def test_paired__rows_that_were_not_pretrained_here_are_paired_trial_by_trial() -> None:
    found = difference(row({(None, 0): 9.0, (None, 1): 9.2, (None, 2): 12.8}, "Theirs"))
    assert found.values == (1.0, 0.0, 1.0) and found.text() == "+0.7 [-0.8, +2.1] n=3"


def test_paired__pretrainings_of_the_same_seed_are_paired_and_others_with_all() -> None:
    supervised = row({(0, 0): 10.0, (0, 1): 11.0, (1, 0): 20.0, (1, 1): 21.0}, "Supervised")
    found = difference(row({(0, 0): 12.0, (0, 1): 12.0, (1, 0): 25.0, (1, 1): 25.0}), supervised)
    assert found.values == (1.5, 4.5) and len(found.pairs) == 4 and found.doubt == ""
    found = difference(row({(8, 0): 12.0, (9, 0): 14.0, (10, 1): 20.0}), supervised)  # minus 15, 15 and 16
    assert found.values == (-3.0, -1.0, 4.0)
    assert found.doubt == "3 pretrainings are paired with the same 2: the interval leaves out how far those scatter"


def test_paired__equal_differences_have_no_interval() -> None:
    found = difference(row({(0, 0): 8.3, (1, 1): 9.5, (2, 2): 12.1}))  # 0.3 each, but for rounding
    assert (found.text(), found.p, found.doubt) == ("+0.3 [-] n=3", None, "no interval: all differences are equal")
