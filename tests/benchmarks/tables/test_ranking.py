"""Best and second of a column, and when the best may be bold."""

import math

import pytest

from benchmarks.tables.ranking import Sample, compare, places, welch


def of_trials(**columns: list[list[float]]) -> dict[str, list[Sample]]:
    """Rows whose trials are independent."""
    return {name: [Sample(values) for values in rows] for name, rows in columns.items()}


@pytest.mark.parametrize(("values", "found"), [
    ([1.0, 3.0, 2.0], ["", "best", "second"]), ([3.0, 3.0, 2.0], ["best", "best", ""]),
    ([1.0, 2.0, 3.0, 2.0], ["", "second", "best", "second"]), ([40.2, (40.1 + 40.3) / 2, 1.0], ["best", "best", ""]),
    ([None, 2.0, 1.0], ["", "best", "second"]), ([2.0], [""]), ([2.0, 2.0], ["", ""]), ([None, None], ["", ""])])
def test_places(values: list, found: list[str]) -> None:
    assert places(values) == found


def test_welch__equals_the_formula_worked_by_hand() -> None:
    # Means 2 and 5, variances 1 and 4, n 3 and 3: t = -3 / sqrt(1/3 + 4/3) = -2.3238, and by Welch and Satterthwaite
    # (5/3)^2 / ((1/3)^2 / 2 + (4/3)^2 / 2) = 2.941 degrees of freedom. P by integrating Student's density.
    t, freedom = 3 / math.sqrt(5 / 3), (5 / 3) ** 2 / ((1 / 9 + 16 / 9) / 2)
    scale = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))
    steps = 200_000
    inside = sum(scale * (1 + ((place + 0.5) * t / steps) ** 2 / freedom) ** (-(freedom + 1) / 2)
                 for place in range(steps)) * t / steps
    low, high = Sample([1.0, 2.0, 3.0]), Sample([3.0, 5.0, 7.0])
    p, why = welch(low, high)
    assert why == "" and p == pytest.approx(1 - 2 * inside, abs=1e-6)
    assert welch(high, low)[0] == pytest.approx(p)


@pytest.mark.parametrize(("one", "other", "why"), [([1.0], [2.0, 3.0], "not tested (n=1)"),
                                                   ([1.0, 1.0], [2.0, 2.0], "not tested (trials without any spread)")])
def test_welch__says_why_there_is_no_test(one: list[float], other: list[float], why: str) -> None:
    assert welch(Sample(one), Sample(other)) == (None, why)


def test_compare__only_a_significant_best_keeps_its_place() -> None:
    far, near = [[40.0, 40.1, 40.2], [39.0, 39.1, 39.2]], [[40.0, 40.4, 39.8], [39.9, 40.1, 40.0]]
    found, said = compare(of_trials(AP_bb=far, AP_mb=near, AP=[[1.0], [2.0]]), ["one", "two"])
    assert found == {"AP_bb": ["best", "second"], "AP_mb": ["leading", "second"], "AP": ["second", "leading"]}
    assert said.startswith("Best over runner-up (Welch's t-test over trials, Holm's correction for 2 columns, bold "
                           "below 0.05): AP bb one over two p = 0.00051; AP mb one over two p = 0.75;")
    assert "AP two over one not tested (n=1)" in said


def test_compare__rows_that_tie_for_best_share_the_place_and_nothing_is_second() -> None:
    found, said = compare(of_trials(AP=[[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]]), ["a", "b", "c"])
    assert found == {"AP": ["leading", "leading", ""]}
    assert said.endswith(": AP a and b tie.")
    assert compare(of_trials(AP=[[1.0, 2.0], [1.0, 2.0]]), ["a", "b"]) == ({"AP": ["", ""]}, "")


def test_compare__of_several_runners_up_one_that_can_be_tested_and_is_hardest_to_beat_counts() -> None:
    best, single, narrow, wide = [50.0, 50.1, 50.2], [40.0], [39.9, 40.0, 40.1], [20.0, 40.0, 60.0]
    found, said = compare(of_trials(AP=[best, single, narrow]), ["best", "single", "narrow"])
    assert found == {"AP": ["best", "second", "second"]} and "AP best over narrow p = " in said
    found, said = compare(of_trials(AP=[single, wide, narrow, best]), ["single", "wide", "narrow", "best"])
    assert found == {"AP": ["second", "second", "second", "leading"]} and "AP best over wide p = 0.4" in said


@pytest.mark.parametrize(("pretrainings", "place", "said"), [
    ([50.0, 50.1, 50.2], "best", "mine over theirs p = 2.7e-08."),
    ([50.0, 50.1], "leading", ", not bold with 2 pretrainings."),
    ([50.0], "leading", "AP mine over theirs not tested (one pretraining).")])
def test_compare__what_was_pretrained_here_is_bold_with_three_pretrainings(pretrainings, place, said) -> None:
    theirs = Sample([40.0, 40.1, 40.2])
    found, sentence = compare({"AP": [Sample(pretrainings, pretrained_here=True), theirs]}, ["mine", "theirs"])
    assert found == {"AP": [place, "second"]} and said in sentence
    assert "Welch's t-test over pretrainings, over trials where a row starts from elsewhere" in sentence


def test_compare__a_checkpoint_from_elsewhere_beats_one_pretraining_without_a_test() -> None:
    found, sentence = compare({"AP": [Sample([50.0, 50.1]), Sample([40.0], pretrained_here=True)]}, ["theirs", "mine"])
    assert found == {"AP": ["leading", "second"]} and "not tested (one pretraining)" in sentence


def test_compare__a_p_that_does_not_outlast_the_correction_is_not_bold() -> None:
    one, other = [40.0, 40.1, 40.2], [39.7, 39.9, 39.8]  # p = 0.021 alone
    assert compare(of_trials(AP=[one, other]), ["one", "two"])[0] == {"AP": ["best", "second"]}
    found, said = compare(of_trials(AP=[one, other], AP50=[one, other], AP75=[one, other]), ["one", "two"])
    assert list(found.values()) == [["leading", "second"]] * 3 and said.count("p = 0.064") == 3
