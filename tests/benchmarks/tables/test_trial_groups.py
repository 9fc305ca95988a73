"""Groups of trials: several pretrainings of one recipe make one row, whose unit is the pretraining."""

import math
from pathlib import Path

import pytest

from benchmarks.records.paper_tables import shown
from benchmarks.tables.trial_groups import Group, Place, group_results

RECIPE, IMAGES = "a1" * 32, "b2" * 32


@pytest.fixture
def grouped(make_result):
    """`grouped(*changes)`: groups and problems of results whose first box AP is `value`, varied."""

    def group(*changes: dict) -> tuple[list[Group], list[str]]:
        results = []
        for number, change in enumerate(changes):
            change = dict(change)
            value = change.pop("value", 40.0)
            results.append((Path(f"{number}.json"), make_result(values=[value] * 6, **change)))
        return group_results(results)

    return group


def of(seed: int, trial: int = 0, recipe: str = RECIPE, images: str = IMAGES, weights: str | None = None,
       **changes) -> dict:
    """One fine-tuning of a pretraining."""
    pretraining = {"objective": "clove", "seed": seed, "recipe_sha256": recipe, "images_sha256": images}
    return {"weights__pretraining": pretraining, "weights__pkl_sha256": weights or f"{seed:02x}" * 32, "trial": trial,
            "seed": trial} | changes


def test_cell__mean_and_deviation_are_over_the_pretrainings_means(grouped) -> None:
    # Means of the pretrainings 41, 44, 47: mean 44, deviation 3. Over the six trials it would be sqrt(42 / 5) = 2.9.
    [group], problems = grouped(*[of(seed, trial, value=39 + 3 * (seed - 1) + 1 + 2 * trial) for seed in (1, 2, 3)
                                  for trial in (0, 1)])
    assert problems == [] and group.by_unit("AP_bb") == {1: [40, 42], 2: [43, 45], 3: [46, 48]}
    assert group.independent("AP_bb") == [41, 44, 47]
    assert group.cell("AP_bb") == (pytest.approx(44), pytest.approx(3), 6)
    assert group.count() == "n=6: 3 pretrainings x 2 fine-tunings"
    assert [trial.place for trial in group.trials[:2]] == [Place(1, 0, 0), Place(1, 1, 1)]


def test_cell__a_pretraining_with_fewer_fine_tunings_counts_as_much_as_the_others(grouped) -> None:
    # Means 41 and 47: mean 44, deviation 6 / sqrt(2). The mean of the three trials would be 43.
    [group], _ = grouped(of(1, 0, value=40), of(1, 1, value=42), of(2, 0, value=47))
    assert group.cell("AP_bb") == (pytest.approx(44), pytest.approx(6 / math.sqrt(2)), 3)
    assert group.count() == "n=3: 2 pretrainings x 1 to 2 fine-tunings"


def test_cell__of_one_pretraining_the_deviation_is_over_its_fine_tunings(grouped) -> None:
    [group], _ = grouped(of(1, 0, value=40), of(1, 1, value=42))
    assert group.cell("AP_bb") == (pytest.approx(41), pytest.approx(math.sqrt(2)), 2)
    assert group.independent("AP_bb") == [41] and group.count() == "n=2: 1 pretraining x 2 fine-tunings"
    [group], _ = grouped(of(1, 0))
    assert group.cell("AP_bb") == (40, None, 1) and group.count() == "n=1: 1 pretraining x 1 fine-tuning"


def test_cell__a_pretraining_without_a_value_is_left_out(grouped) -> None:
    [group], _ = grouped(of(1, value=40), of(2, value=50), of(3, value=None))
    assert group.cell("AP_bb") == (pytest.approx(45), pytest.approx(10 / math.sqrt(2)), 2)


def test_group__a_checkpoint_from_elsewhere_has_its_trials_as_the_unit(grouped) -> None:
    [group], _ = grouped({"trial": 0, "value": 40}, {"trial": 1, "value": 42, "weights__pretraining": None})
    assert group.from_elsewhere and not group.pretrained_here and group.count() == "n=2"
    assert group.independent("AP_bb") == [40, 42] and group.cell("AP_bb")[1] == pytest.approx(math.sqrt(2))
    [random], _ = grouped({"method": "Rand init", "epochs": None})
    assert not random.from_elsewhere


@pytest.mark.parametrize("change", [{"recipe": "c3" * 32}, {"images": "d4" * 32}, {"weights__branch": "teacher"}])
def test_group__another_recipe_other_images_or_another_branch_is_another_row(grouped, change: dict) -> None:
    groups, problems = grouped(of(1), of(2, **change))
    assert len(groups) == 2 and problems == []


def test_group__other_weights_without_a_pretraining_are_another_row(grouped) -> None:
    assert len(grouped({}, {"trial": 1, "weights__pkl_sha256": "ef" * 32})[0]) == 2


def test_group__two_weights_of_one_pretraining_are_named_and_the_later_ones_count(grouped) -> None:
    [group], problems = grouped(of(1, 0, value=10), of(1, 0, value=40, weights="ee" * 32, ended="2026-02-01T00:00:00Z"),
                                of(1, 1, value=10), of(2, 0, value=50))
    text = ("starts from weights 01010101, 1.json from eeeeeeee, and both name the same pretraining (recipe, images, "
            "seed 1): the one that ended later counts")
    assert problems == [f"0.json: {text}", f"2.json: {text}"]
    assert group.by_unit("AP_bb") == {1: [40], 2: [50]}


def test_group__times_are_compared_across_zones(grouped) -> None:
    later, earlier = "2026-01-01T23:30:00-05:00", "2026-01-02T01:00:00+00:00"  # 04:30 and 01:00 in UTC
    [group], problems = grouped(of(1, 0, value=41, ended=later), of(1, 0, value=40, ended=earlier))
    assert problems == ["1.json: the same trial ran again; 0.json counts instead"]
    assert group.by_unit("AP_bb") == {1: [41]}


def test_group__the_same_trial_of_two_pretrainings_is_no_repetition(grouped) -> None:
    [group], problems = grouped(of(1, 0), of(2, 0), of(2, 0, value=41, ended="2026-02-01T00:00:00Z"))
    assert problems == ["1.json: the same trial ran again; 2.json counts instead"]
    assert group.by_unit("AP_bb") == {1: [40], 2: [41]}


def test_group__trials_hold_the_columns_of_their_table(grouped, make_result) -> None:
    [group], _ = grouped({})
    assert group.trials[0].columns == shown(make_result(values=[40.0] * 6))


def test_group__datasets_of_one_task_and_shares_of_one_stand_in_blocks_of_their_own(grouped) -> None:
    own = {"dataset__val__images": 8, "dataset__classes": ["cell"]}
    groups, problems = grouped(
        own | {"dataset__label": "blood", "dataset__train__annotations_sha256": "aa" * 32},
        own | {"dataset__label": "buds", "dataset__train__annotations_sha256": "bb" * 32},
        {"dataset__name": "coco", "dataset__train_share": {"share": 0.25, "images": 29571}}, {"dataset__name": "coco"})
    assert problems == []
    headings = [group.block[1].split(", annotations ")[0] for group in groups]
    assert headings == [
        "Own data: blood, 1 class, 118287 training and 8 evaluation images",
        "Own data: buds, 1 class, 118287 training and 8 evaluation images",
        "Own data: coco, 80 classes, 118287 training (share 0.25) and 5000 evaluation images", ""]
