"""What is measured of each backbone: a task on a dataset, with a share of its training images, in several trials."""

import statistics
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.options.inputs import TaskData
from pretrain.common.errors import refuse
from transfer.records import identity

PAIRED = "paired"  # of --trials: a pretraining of seed s is fine-tuned once, by trial s


@dataclass(frozen=True)
class Protocol:
    """What transfer resolves a task's options to: scale, length, batch, shorter sides of the images
    (pixels; their mean in training), hashes of what belongs to the training and of what to the
    evaluation."""

    scale: str
    iterations: int
    batch: int
    train_side: float
    test_side: int
    training: str
    evaluation: str


@dataclass(frozen=True)
class Evaluation:
    """One fine-tuning of each row. `data` is None for the demo's, which a stage of the run makes."""

    task: str
    data: TaskData | None
    protocol: Protocol
    share: float = 1.0
    trial: int = 0

    @property
    def place(self) -> str:
        """Of the names of stages: the task, and where they are not the usual ones its dataset and share."""
        place = self.task
        if self.data is not None:
            place += self.data.part
        if self.share != 1:
            place += f".share{self.share:g}"
        return place

    @property
    def parents(self) -> tuple[str, ...]:
        """The stage that makes its data, where it is the demo's."""
        if self.data is not None:
            return ()
        return ("data",)

    @property
    def inputs(self) -> dict[str, str]:
        """Hashes of its data, of what belongs to the training and of what to the evaluation."""
        if self.data is None:
            return {}
        return {"training": self.data.training, "evaluation": self.data.evaluation}

    @property
    def numbers(self) -> dict[str, Any]:
        """What changes a result, whatever the method and trial."""
        numbers: dict[str, Any] = {"protocol": self.protocol.training}
        if self.share != 1:
            numbers["train_share"] = self.share
        return numbers


def read_shares(text: str) -> tuple[float, ...]:
    """--train-share: shares above 0, at most 1, none twice. Raises `UserError`."""
    found: list[float] = []
    for part in text.split(","):
        try:
            share = float(part)
        except ValueError:
            share = 0.0
        refuse(
            (not 0 < share <= 1, f"--train-share {text}: expected numbers above 0, at most 1, as "
                                 f"in 0.1,0.25,1, found {part.strip()!r}"),
            (share in found, f"--train-share {text}: {part.strip()} is given twice"),
        )
        found.append(share)
    return tuple(found)


def read_trials(text: str) -> int | Literal["paired"]:
    """--trials: how many, or "paired". Raises `UserError`."""
    if text == PAIRED:
        return PAIRED
    refuse((not text.isdecimal() or int(text) < 1,
            f"--trials {text}: expected a number from 1, or {PAIRED}"))
    return int(text)


def protocol_of(resolved: dict[str, Any]) -> Protocol:
    """Of what `transfer.settings.resolved_config.protocol` gives."""
    evaluation, training = {}, dict(resolved)
    config = identity.flatten(training.pop("config"))
    for key, value in config.items():
        if key in identity.EVALUATION_KEYS:
            evaluation[key] = value
        elif key not in identity.WITHOUT_EFFECT:
            training[key] = value
    return Protocol(
        scale=resolved["scale"], iterations=config["SOLVER.MAX_ITER"], batch=config["SOLVER.IMS_PER_BATCH"],
        train_side=statistics.fmean(config["INPUT.MIN_SIZE_TRAIN"]), test_side=config["INPUT.MIN_SIZE_TEST"],
        training=identity.sha256(training), evaluation=identity.sha256(evaluation))
