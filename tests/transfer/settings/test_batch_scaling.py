"""How a batch fits: accumulation changes nothing but the images at once, the linear rule is detectron2's."""

from pathlib import Path

import pytest
from detectron2.engine import DefaultTrainer

from pretrain.common.errors import UserError
from tests.transfer.resolved import resolve
from transfer.data.dataset import Dataset, Split
from transfer.settings import resolved_config
from transfer.settings.batch_scaling import Fit, batch_norm_images, chosen, images_at_once
from transfer.settings.resolved_config import plain
from transfer.tasks import get
from transfer.trained.diff import config_differences

SPLIT = Split(2, Path("annotations.json"), Path("images"), "0" * 64)
COCO = Dataset("coco", SPLIT, SPLIT, ("disc", "star"), ("boxes", "masks"))
CITYSCAPES = Dataset("cityscapes", SPLIT, SPLIT, tuple("abcdefgh"), ("boxes", "masks"))


def resolved(fit: Fit | None, dataset: Dataset = COCO, *overrides: str, **words: object) -> resolved_config.CfgNode:
    if fit is not None and fit.images is None:  # a quarter of the batch, as the preset says it
        ending = {"accumulate": "_1gpu", "linear": "_1gpu_linear"}[fit.kind]
        words |= {"schedule": f"{get(dataset.task).default_schedule}{ending}"}
    elif fit is not None:
        words |= {"fit": f"{fit.kind}={fit.images}"}
    return resolve(dataset, get(dataset.task).default_heads, "full", overrides, **words)


def changes(fit: Fit, dataset: Dataset = COCO) -> dict[str, tuple]:
    return config_differences(plain(resolved(None, dataset)), plain(resolved(fit, dataset)))


def test_accumulate__changes_the_images_at_once_and_nothing_else() -> None:
    assert changes(Fit("accumulate", 4)) == {"SOLVER.IMAGES_AT_ONCE": (None, 4)}
    assert changes(Fit("accumulate", 16)) == {}  # the whole batch
    assert images_at_once(resolved(Fit("accumulate", 4))) == 4 and images_at_once(resolved(None)) == 16


@pytest.mark.parametrize("images", [1, 2, 8])
def test_linear__is_detectron2s_own_rule(images: int) -> None:
    cfg = resolved(None)
    cfg.defrost()
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 16  # one image a worker
    expected = DefaultTrainer.auto_scale_workers(cfg, images)
    expected.SOLVER.REFERENCE_WORLD_SIZE = 0
    expected.TEST.PRECISE_BN.NUM_ITER = 200 * 16 // images  # ours: statistics of as many images
    own = resolved(Fit("linear", images))
    assert config_differences(resolved_config.plain(expected), resolved_config.plain(own)) == {}
    assert own.SOLVER.IMS_PER_BATCH * own.SOLVER.MAX_ITER == 16 * 90_000
    assert (0.02 * images / 16, 1000 * 16 // images) == (own.SOLVER.BASE_LR, own.SOLVER.WARMUP_ITERS)


@pytest.mark.parametrize(("schedule", "fit", "expected"), [
    (None, None, (None, None)),
    ("2x", None, ("2x", None)),
    ("1x_1gpu", None, ("1x", Fit("accumulate"))),
    ("24k_1gpu_linear", None, ("24k", Fit("linear"))),
    ("2x", "linear=8", ("2x", Fit("linear", 8))),
])
def test_chosen__presets_and_explicit_words(schedule: str | None, fit: str | None, expected: tuple) -> None:
    assert chosen(schedule, fit) == expected


@pytest.mark.parametrize(("dataset", "quarter"), [(COCO, 4), (CITYSCAPES, 2)])
def test_presets__take_a_quarter_of_the_batch(dataset: Dataset, quarter: int) -> None:
    for kind in ("accumulate", "linear"):
        assert resolved(Fit(kind), dataset) == resolved(Fit(kind, quarter), dataset)
        assert images_at_once(resolved(Fit(kind), dataset)) == quarter


@pytest.mark.parametrize("text", ["4", "accumulate", "accumulate=0", "accumulate=-4", "linear=4.5", "sum=4", ""])
def test_chosen__names_the_form(text: str) -> None:
    with pytest.raises(UserError, match=f"--fit {text}: expected accumulate=N or linear=N, such as accumulate=4"):
        chosen(None, text)


def test_chosen__two_answers_are_one_too_many() -> None:
    with pytest.raises(UserError, match="--schedule 1x_1gpu and --fit linear=2 both say how the batch fits the GPU: "
                                        "leave out one, such as --schedule 1x --fit linear=2"):
        chosen("1x_1gpu", "linear=2")


@pytest.mark.parametrize(("fit", "overrides", "processes", "text"), [
    (Fit("accumulate", 5), (), 1, "accumulate=5 does not fit a batch of 16: expected a number that divides it"),
    (Fit("linear", 32), (), 1, "linear=32 does not fit a batch of 16"),
    (Fit("accumulate", 4), ("SOLVER.IMS_PER_BATCH=6",), 1, "accumulate=4 does not fit SOLVER.IMS_PER_BATCH 6"),
    (Fit("linear", 4), ("SOLVER.IMS_PER_BATCH=8",), 1, "linear=4 and a batch of 8 set by hand contradict each other"),
    (Fit("accumulate", 2), (), 4, "accumulate=2 cannot be shared by 4 processes: expected a multiple"),
    (None, (), 3, "SOLVER.IMS_PER_BATCH 16 cannot be shared by 3 processes: expected a multiple"),
])
def test_resolve__refuses_what_does_not_divide(fit: Fit | None, overrides: tuple, processes: int, text: str) -> None:
    with pytest.raises(UserError, match=text):
        resolved(fit, COCO, *overrides, num_gpus=processes)


@pytest.mark.parametrize(("fit", "overrides", "processes", "device", "images"), [
    (None, (), 1, "cuda", 16),  # BN
    (None, (), 8, "cuda", 16),  # SyncBN
    (None, (), 2, "cpu", 16),
    (Fit("accumulate", 4), (), 1, "cuda", 4),
    (Fit("accumulate", 4), (), 2, "cuda", 4),
    (Fit("linear", 2), (), 1, "cpu", 2),
    (None, ("MODEL.RESNETS.NORM=BN",), 4, "cuda", 4),  # of each process for itself
    (None, ("MODEL.RESNETS.NORM=FrozenBN",), 4, "cuda", None),
])
def test_batch_norm_images__what_the_backbone_sees(fit: Fit | None, overrides: tuple, processes: int, device: str,
                                                   images: int | None) -> None:
    cfg = resolved(fit, COCO, *overrides, num_gpus=processes, device=device)
    assert batch_norm_images(cfg, processes) == images
