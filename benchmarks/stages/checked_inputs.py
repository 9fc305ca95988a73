"""What a run reads, found and checked before anything runs: images, datasets, checkpoints, the tasks' protocols."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.options.evaluations import Evaluation, Protocol, protocol_of
from benchmarks.options.gpus import count_gpus
from benchmarks.options.inputs import Photos, TaskData, find_photos, read_task, task_folders
from benchmarks.options.run_options import Options
from pretrain.common.errors import UserError
from transfer import tasks

# Of generated data: what each scale of a demo gets.
DEMO_DATA = {"demo": {"seed": 0, "photos": 192, "train": 24, "val": 8},
             "tiny": {"seed": 0, "photos": 8, "train": 4, "val": 2}}


@dataclass(frozen=True)
class Inputs:
    """What was found: pretraining images by sub-folder ("": all of them), each task's datasets and resolved protocol,
    SHA-256 of each checkpoint."""

    photos: dict[str, Photos] = field(default_factory=dict)  # empty: the demo's
    data: dict[str, tuple[TaskData, ...]] = field(default_factory=dict)  # empty: the demo's
    checkpoints: dict[str, str] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)

    def evaluations(self, task: str) -> list[Evaluation]:
        """One of each dataset of a task, on all its images; without data, on the demo's."""
        return [Evaluation(task, data, self.protocols[task]) for data in self.data.get(task) or (None,)]


def find_inputs(options: Options) -> Inputs:
    """Look at everything that the stages read, which can take minutes. Raises one `UserError` naming all that is
    missing, or a wrong --set."""
    protocols = find_protocols(options)
    if options.demo:
        _check_demo(options)
        photos, data, checkpoints = {}, {}, {}
    else:
        photos, data, checkpoints = _find_inputs(options)
    return Inputs(photos, data, checkpoints, protocols)


def find_protocols(options: Options) -> dict[str, Protocol]:
    """Of each task. Raises `UserError` for a wrong --set, --fit, --schedule, --solver, --heads or number of GPUs."""
    return {task: _protocol(options, task) for task in options.tasks}


def _protocol(options: Options, task: str) -> Protocol:
    """What transfer makes of the options of a task; a wrong one is told now, not when the pretraining is done."""
    known = tasks.get(task)
    if options.heads and options.heads not in known.heads:
        raise UserError(f"--heads {options.heads}: task {task} has heads {', '.join(known.heads)}; leave out the "
                        "option or the task")
    from transfer.settings import resolved_config  # imports detectron2

    try:
        return protocol_of(resolved_config.protocol(options.protocol(task), max(1, count_gpus(options))))
    except UserError as error:
        raise UserError(f"task {task}: {error}") from None


def _check_demo(options: Options) -> None:
    from benchmarks.demo.layouts import LAYOUTS

    for task in options.tasks:
        layout = tasks.get(task).demo_layout
        if layout not in LAYOUTS:
            what = "names no demo_layout" if layout is None else f"names the demo_layout {layout!r}"
            raise UserError(f"task {task} {what}: expected one of {', '.join(LAYOUTS)}; leave the task out of the "
                            "demo, or run it on data of its own")
    if labels := _labels(options):
        raise UserError(f"labels {labels[0]}: the demo's generated pictures have no classes; leave out the "
                        "pretrainings that need them, or give your own with --photos DIR instead of the demo")
    if parts := [one.images for one in options.pretrainings if one.images]:
        raise UserError(f"images={parts[0]}: the demo's generated images lie in one folder; leave it out, or give "
                        "your own with --photos DIR instead of the demo")


def _find_inputs(options: Options) -> tuple[dict[str, Photos], dict[str, tuple[TaskData, ...]], dict[str, str]]:
    missing: list[str] = []

    def look(find: Callable[[], Any]) -> Any:
        try:
            return find()
        except UserError as error:
            missing.append(str(error))
            return None

    photos: dict[str, Photos] = {}
    for part in dict.fromkeys(one.images for one in options.pretrainings):
        found = look(lambda part=part: find_photos(options.photos, options.imagenet, _labels(options, part), part))
        if found is not None:
            photos[part] = found
    data: dict[str, tuple[TaskData, ...]] = {}
    for task in options.tasks:
        folders = look(lambda task=task: task_folders(task, options.data)) or ()
        data[task] = tuple(look(lambda task=task, where=where: read_task(task, where)) for where in folders)
        missing += _alike(task, [one for one in data[task] if one is not None])
    missing += _too_few(options, photos)
    checkpoints = {}
    if options.checkpoints:  # all are read now, or the second would be looked at after the first one's fine-tuning
        from transfer.reading.inspection import check_checkpoint  # imports torch
        for name, path in options.checkpoints.items():
            checkpoints[name] = look(lambda name=name, path=path: check_checkpoint(name, path, options.branch))
    missing = list(dict.fromkeys(missing))  # of several sub-folders without the folder that they are in
    if missing:
        listed = "\n".join(f"  - {line}" for line in missing)
        raise UserError(f"{len(missing)} input{'s' if len(missing) > 1 else ''} missing or wrong, nothing was run:\n"
                        f"{listed}\n  fewer tasks: --tasks; a run without any data: --demo")
    return photos, data, checkpoints


def _labels(options: Options, part: str = "") -> list[str]:
    """The ways in which the images of a sub-folder say their classes to the pretrainings that need them."""
    return sorted({one.config.train.labels for one in options.pretrainings if one.images == part} - {"none"})


def _alike(task: str, datasets: list[TaskData]) -> list[str]:
    """A line for each dataset that no result could tell from one before it."""
    lines = []
    known: dict[tuple[str, str], str] = {}
    for one in datasets:
        before = known.setdefault((one.training, one.evaluation), one.label)
        if before != one.label:
            lines.append(f"task {task}: the annotations of {one.label} are those of {before}: their results could not "
                         "be told apart; leave out one of them")
    return lines


def _too_few(options: Options, photos: dict[str, Photos]) -> list[str]:
    """A line for each folder whose images are fewer than a batch of a pretraining."""
    lines = []
    for part, found in photos.items():
        largest = max(one.config.train.batch_size for one in options.pretrainings if one.images == part)
        if found.images < largest:
            place = f" in {part}" if part else ""
            lines.append(f"{found.images} pretraining images{place} are fewer than one batch of {largest}: use "
                         "--recipe mini, or --set pretrain.batch_size=N")
    return lines
