"""What a run reads, found and checked before anything runs: images, datasets, checkpoints, the tasks' protocols."""

from dataclasses import dataclass, field

from benchmarks.options.checks import Check
from benchmarks.options.evaluations import Evaluation, Protocol, protocol_of
from benchmarks.options.gpus import count_gpus
from benchmarks.options.inputs import Photos, TaskData, find_photos, read_task, task_folders
from benchmarks.options.run_options import Options
from pretrain.common.errors import UserError, refuse
from transfer import tasks

# Of generated data: what each scale of a demo gets.
DEMO_DATA = {"demo": {"seed": 0, "photos": 192, "train": 24, "val": 8},
             "tiny": {"seed": 0, "photos": 8, "train": 4, "val": 2}}


@dataclass(frozen=True)
class Inputs:
    """What was found: pretraining images by sub-folder ("": all of them), each task's datasets and
    resolved protocol, SHA-256 of each checkpoint."""

    photos: dict[str, Photos] = field(default_factory=dict)  # empty: the demo's
    data: dict[str, tuple[TaskData, ...]] = field(default_factory=dict)  # empty: the demo's
    checkpoints: dict[str, str] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)

    def evaluations(self, task: str) -> list[Evaluation]:
        """One of each dataset of a task, on all its images; without data, on the demo's."""
        return [Evaluation(task, data, self.protocols[task]) for data in self.data.get(task) or (None,)]


def find_inputs(options: Options) -> Inputs:
    """Look at everything that the stages read, which can take minutes. Raises one `UserError`
    naming all that is missing, or a wrong --set."""
    protocols = find_protocols(options)
    if options.demo:
        _check_demo(options)
        return Inputs(protocols=protocols)
    missing: list[str] = []
    photos = _find_photos(options, missing)
    data = {task: _find_data(options, task, missing) for task in options.tasks}
    checkpoints = _find_checkpoints(options, missing)
    missing = list(dict.fromkeys(missing))  # of several sub-folders without the folder that they are in
    if missing:
        listed = "\n".join(f"  - {line}" for line in missing)
        raise UserError(f"{len(missing)} input{'s' if len(missing) > 1 else ''} missing or wrong, nothing was run:\n"
                        f"{listed}\n  fewer tasks: --tasks; a run without any data: --demo")
    return Inputs(photos, data, checkpoints, protocols)


def find_protocols(options: Options) -> dict[str, Protocol]:
    """What transfer makes of the options of each task: a wrong one is reported now, not when the
    pretraining is done.

    Raises `UserError` for a wrong --set, --fit, --schedule, --solver, --heads or number of GPUs.
    """
    found: dict[str, Protocol] = {}
    for task in options.tasks:
        from transfer.settings import resolved_config  # imports detectron2: only when there is a task

        try:
            found[task] = protocol_of(resolved_config.protocol(options.protocol(task), max(1, count_gpus(options))))
        except UserError as error:
            raise UserError(f"task {task}: {error}") from None
    return found


def _check_demo(options: Options) -> None:
    """What generated data lacks."""
    from benchmarks.demo.layouts import LAYOUTS

    checks: list[Check] = []
    for task in options.tasks:
        layout = tasks.get(task).demo_layout
        checks.append((layout not in LAYOUTS,
                       f"task {task}: expected a demo_layout of {', '.join(LAYOUTS)}, found {layout}; leave the task "
                       "out of the demo, or run it on data of its own"))
    advice = "leave it out, or give your own with --photos DIR instead of the demo"
    for one in options.pretrainings:
        labels = one.config.train.labels
        checks += [
            (labels != "none", f"labels {labels}: the demo's generated images have no classes; {advice}"),
            (one.images, f"images={one.images}: the demo's generated images lie in one folder; {advice}"),
        ]
    refuse(*checks)


def _find_photos(options: Options, missing: list[str]) -> dict[str, Photos]:
    """The pretraining images by sub-folder; what is wrong with them goes into `missing`."""
    found: dict[str, Photos] = {}
    for part in dict.fromkeys(one.images for one in options.pretrainings):
        trained = [one.config.train for one in options.pretrainings if one.images == part]
        labels = sorted({train.labels for train in trained} - {"none"})
        try:
            found[part] = find_photos(options.photos, options.imagenet, labels, part)
        except UserError as error:
            missing.append(str(error))
            continue
        largest = max(train.batch_size for train in trained)
        if found[part].images < largest:
            missing.append(f"pretraining images in {found[part].folder}: expected at least one batch of {largest}, "
                           f"found {found[part].images}; use --recipe mini, or --set pretrain.batch_size=N")
    return found


def _find_data(options: Options, task: str, missing: list[str]) -> tuple[TaskData, ...]:
    """The datasets of a task; what is wrong with them, and what no result could tell apart, goes into `missing`."""
    found: dict[tuple[str, str], TaskData] = {}
    try:
        folders = task_folders(task, options.data)
    except UserError as error:
        folders = ()
        missing.append(str(error))
    for where in folders:
        try:
            data = read_task(task, where, options.same_images, options.crowds_as_objects)
        except UserError as error:
            missing.append(str(error))
            continue
        before = found.setdefault((data.training, data.evaluation), data)
        if before is not data:
            missing.append(f"task {task}: the annotations of {data.label} are those of {before.label}: their results "
                           "could not be told apart; leave out one of them")
    return tuple(found.values())


def _find_checkpoints(options: Options, missing: list[str]) -> dict[str, str]:
    """SHA-256 of each checkpoint. All are read now, or the second would be looked at after the
    first one's fine-tuning."""
    found: dict[str, str] = {}
    for name, path in options.checkpoints.items():
        from transfer.reading.inspection import check_checkpoint  # imports torch

        try:
            found[name] = check_checkpoint(name, path, options.branch)
        except UserError as error:
            missing.append(str(error))
    return found
