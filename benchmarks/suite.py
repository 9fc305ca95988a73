"""The stages of a run: preflights; pretrain -> convert -> fine-tune for each row and evaluation."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import estimate, keep, probe_table, results
from benchmarks.evaluations import Evaluation, Protocol, protocol_of
from benchmarks.inputs import Photos, TaskData, check_labels, find_photos, read_task, slug, task_folders
from benchmarks.options import CLOVE, PROBED, RANDOM, Options
from benchmarks.pretrainings import Pretraining
from benchmarks.stage import Stage, plan_keys
from pretrain.errors import UserError
from transfer import request, tasks

DISPLAY = {CLOVE: "CLoVE", "rand": "Rand init", "rand_msra": "Rand init (MSRA pixels)",
           "rand_zero_gamma": "Rand init (zero gamma)"}
# Of generated data: what each scale of a demo gets.
DEMO_DATA = {"demo": {"seed": 0, "photos": 192, "train": 24, "val": 8},
             "tiny": {"seed": 0, "photos": 8, "train": 4, "val": 2}}


@dataclass(frozen=True)
class Inputs:
    """What was found: pretraining images, each task's datasets and resolved protocol, SHA-256 of each checkpoint."""

    photos: Photos | None = None
    data: dict[str, tuple[TaskData, ...]] = field(default_factory=dict)  # empty: the demo's
    checkpoints: dict[str, str] = field(default_factory=dict)
    protocols: dict[str, Protocol] = field(default_factory=dict)

    def datasets(self, task: str) -> tuple[TaskData | None, ...]:
        """Those of a task; None stands for the demo's."""
        return self.data.get(task) or (None,)


@dataclass(frozen=True)
class Start:
    """What the fine-tunings of a row start from. `name`: in the names of stages."""

    method: str
    name: str
    pretraining: Pretraining | None = None
    checkpoint: Path | None = None
    random: str = ""  # transfer's name of random weights

    @property
    def row(self) -> str:
        """Its name in the tables."""
        return DISPLAY.get(self.method, self.method)

    @property
    def converted(self) -> str:
        """The stage whose backbone they take; "" for random weights."""
        return "" if self.random else f"convert-{self.name}"


def plan(options: Options) -> list[Stage]:
    """All stages in an order in which each one's parents come before it. Raises one `UserError` naming all that is
    missing."""
    return build(options, find_inputs(options))


def find_inputs(options: Options) -> Inputs:
    """Look at everything that the stages read, which can take minutes. Raises one `UserError` naming all that is
    missing, or a wrong --set."""
    protocols = find_protocols(options)
    if options.demo:
        _check_demo(options)
        photos, data, checkpoints = None, {}, {}
    else:
        photos, data, checkpoints = _find_inputs(options)
    if photos:  # absolute: what is planned here may run in a job that starts elsewhere
        photos = replace(photos, folder=photos.folder.absolute())
    return Inputs(photos, data, checkpoints, protocols)


def build(options: Options, inputs: Inputs) -> list[Stage]:
    """The stages, without a look at the disk. Raises `UserError` when two would have one name."""
    stages: list[Stage] = []
    if options.demo:
        stages.append(_demo_data(options))
    if options.preflight:
        for task in options.tasks:
            for data in inputs.datasets(task):
                stages.append(_preflight(options, inputs, Evaluation(task, data)))
    for start in starts(options):
        if start.pretraining:
            stages.append(_pretrain(options, start, inputs.photos))
        if not start.random:
            stages.append(_convert(options, start, inputs))
            if options.probes:
                for task in options.tasks:
                    if task in PROBED:
                        stages += [_probe(options, start, Evaluation(task, data)) for data in inputs.datasets(task)]
        for evaluation in evaluations(options, inputs):
            stages.append(_finetune(options, inputs, start, evaluation))
    names = [stage.name for stage in stages]
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise UserError(f"two stages would be called {double}: choose another label for a pretraining or dataset")
    plan_keys(stages)
    return stages


def starts(options: Options) -> list[Start]:
    """Each method's, a pretrained one's for each of its seeds."""
    found: list[Start] = []
    for method in options.methods:
        if method in RANDOM:
            found.append(Start(method, method, random=RANDOM[method]))
        elif method in options.checkpoints:
            found.append(Start(method, slug(method), checkpoint=options.checkpoints[method]))
        else:
            found += [Start(method, one.name, one) for one in options.pretrainings if one.label == method]
    return found


def evaluations(options: Options, inputs: Inputs) -> list[Evaluation]:
    """What each row is measured on."""
    return [Evaluation(task, data, share, trial) for task in options.tasks for data in inputs.datasets(task)
            for share in options.train_shares for trial in range(options.trials)]


def find_protocols(options: Options) -> dict[str, Protocol]:
    """Of each task. Raises `UserError` for a wrong --set, --fit, --schedule, --solver, --heads or number of GPUs."""
    return {task: _protocol(options, task) for task in options.tasks}


def _protocol(options: Options, task: str) -> Protocol:
    """What transfer makes of the options of a task; a wrong one is told now, not when the pretraining is done."""
    known = tasks.get(task)
    if options.heads and options.heads not in known.heads:
        raise UserError(f"--heads {options.heads}: task {task} has heads {', '.join(known.heads)}; leave out the "
                        "option or the task")
    from transfer import settings  # imports detectron2

    try:
        return protocol_of(settings.protocol(asked_protocol(options, task), max(1, count_gpus(options))))
    except UserError as error:
        raise UserError(f"task {task}: {error}") from None


def asked_protocol(options: Options, task: str) -> request.Protocol:
    """How a task is fine-tuned, as transfer takes it."""
    overrides = tuple(f"{key}={value}" for key, value in options.overrides.get(task, {}).items())
    return request.Protocol(task=task, scale=options.scale, heads=options.heads, schedule=options.schedules.get(task),
                            solver=options.solvers.get(task), overrides=overrides, **options.shared)


def _check_demo(options: Options) -> None:
    from benchmarks.demo.layouts import LAYOUTS

    for task in options.tasks:
        layout = tasks.get(task).demo_layout
        if layout not in LAYOUTS:
            what = "names no demo_layout" if layout is None else f"names the demo_layout {layout!r}"
            raise UserError(f"task {task} {what}: expected one of {', '.join(LAYOUTS)}; leave the task out of the "
                            "demo, or run it on data of its own")
    _check_batches(options, DEMO_DATA[options.scale]["photos"], [])


def _find_inputs(options: Options) -> tuple[Photos | None, dict[str, tuple[TaskData, ...]], dict[str, str]]:
    missing: list[str] = []

    def look(find: Callable[[], Any]) -> Any:
        try:
            return find()
        except UserError as error:
            missing.append(str(error))
            return None

    photos = None
    if options.pretrainings:
        photos = look(lambda: find_photos(options.photos, options.imagenet))
    data: dict[str, tuple[TaskData, ...]] = {}
    for task in options.tasks:
        folders = look(lambda task=task: task_folders(task, options.data)) or ()
        data[task] = tuple(look(lambda task=task, where=where: read_task(task, where)) for where in folders)
        missing += _alike(task, [one for one in data[task] if one is not None])
    if photos is not None:
        _check_batches(options, photos.images, missing)
        for kind in sorted({one.config.train.labels for one in options.pretrainings} - {"none"}):
            look(lambda kind=kind: check_labels(photos, kind))
    checkpoints = {}
    if options.checkpoints:  # all are read now, or the second would be looked at after the first one's fine-tuning
        from transfer.inspection import check_checkpoint  # imports torch
        for name, path in options.checkpoints.items():
            checkpoints[name] = look(lambda name=name, path=path: check_checkpoint(name, path, options.branch))
    if missing:
        listed = "\n".join(f"  - {line}" for line in missing)
        raise UserError(f"{len(missing)} input{'s' if len(missing) > 1 else ''} missing or wrong, nothing was run:\n"
                        f"{listed}\n  fewer tasks: --tasks; a run without any data: --demo")
    return photos, data, checkpoints


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


def _check_batches(options: Options, images: int, missing: list[str]) -> None:
    """Pretrainings whose batch is larger than all images go into `missing`."""
    largest = max((one.config.train.batch_size for one in options.pretrainings), default=0)
    if images < largest:
        missing.append(f"{images} pretraining images are fewer than one batch of {largest}: use --recipe mini, or "
                       "--set pretrain.batch_size=N")


def _python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def _demo_data(options: Options) -> Stage:
    counts = DEMO_DATA[options.scale]
    words = [word for key, value in counts.items() for word in (f"--{key}", value)]
    return Stage(
        "data", counts, lambda folder, _: _python("benchmarks.demo_data", "--output", folder / "data", *words),
        product="data", cost="seconds", disk_gb=0.01)


def _pretrain(options: Options, start: Start, photos: Photos | None) -> Stage:
    config = start.pretraining.config
    values = config.flat()
    if options.device != "auto":
        values["device"] = options.device

    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        images = parents["data"] / "data" / "photos" if options.demo else photos.folder
        # The resolved values, all of them: a recipe edited meanwhile cannot change a run that has begun.
        words: list[object] = ["--data", images, "--output", folder]
        for name, value in values.items():
            words += [f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else [value])]
        gpus = count_gpus(options)
        if gpus > 1:
            return _python("torch.distributed.run", "--standalone", "--nproc-per-node", gpus, "-m", "pretrain", *words)
        return _python("pretrain", *words)

    images = DEMO_DATA[options.scale]["photos"] if options.demo else photos.images
    train = config.train
    return Stage(
        f"pretrain-{start.name}", config.identity(), command, product="backbone.safetensors",
        inputs={} if options.demo else {"images": photos.digest}, parents=("data",) if options.demo else (),
        cost=estimate.pretraining(images, config), disk_gb=estimate.PRETRAIN_GB, kind="pretrain",
        gpu_hours=estimate.pretraining_hours(images, config),
        steps=images // train.batch_size * train.epochs, batch=train.batch_size)


def _convert(options: Options, start: Start, inputs: Inputs) -> Stage:
    source = start.checkpoint
    numbers = {"method": start.row}
    words: list[object] = ["--method", start.row]
    if source and options.branch:
        numbers["branch"] = options.branch
        words += ["--branch", options.branch]

    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        file = source or parents[f"pretrain-{start.name}"] / "backbone.safetensors"
        return _python("transfer", "convert", file, "--output", folder, *words)

    return Stage(
        start.converted, numbers, command, product="detectron2.pkl",
        inputs={"checkpoint": inputs.checkpoints[start.method]} if source else {},
        parents=() if source else (f"pretrain-{start.name}",), cost="under a minute", disk_gb=0.25)


def _task_numbers(inputs: Inputs, evaluation: Evaluation) -> dict[str, Any]:
    """What changes a result, whatever the method."""
    numbers: dict[str, Any] = {"protocol": inputs.protocols[evaluation.task].training}
    if evaluation.share != 1:
        numbers["train_share"] = evaluation.share
    return numbers


def _place(options: Options, evaluation: Evaluation, parents: dict[str, Path]) -> Path:
    """Where a task's data is."""
    if evaluation.data is not None:
        return evaluation.data.folder
    return parents["data"] / "data" / tasks.get(evaluation.task).demo_layout


def _task_words(options: Options, evaluation: Evaluation, parents: dict[str, Path]) -> list[object]:
    """A task on the command line of transfer, with where its data is and what runs it."""
    words: list[object] = [*asked_protocol(options, evaluation.task).arguments(), "--data",
                           _place(options, evaluation, parents), "--num-gpus", max(count_gpus(options), 1)]
    words += ["--train-share", evaluation.share] if evaluation.share != 1 else []
    words += ["--device", options.device] if options.device != "auto" else []
    return words


def _preflight(options: Options, inputs: Inputs, evaluation: Evaluation) -> Stage:
    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        return _python("transfer", "preflight", *_task_words(options, evaluation, parents), "--architecture",
                       options.architecture, "--output", folder / "preflight")

    data = evaluation.data
    return Stage(
        f"preflight-{evaluation.place}", _task_numbers(inputs, evaluation) | {"architecture": options.architecture},
        command, product="preflight/preflight.json",
        inputs={} if data is None else {"training": data.training, "evaluation": data.evaluation},
        parents=("data",) if data is None else (), cost="minutes", disk_gb=0.5, kind="preflight", array="preflight",
        task=evaluation.task)


def _finetune(options: Options, inputs: Inputs, start: Start, evaluation: Evaluation) -> Stage:
    task, data, protocol = evaluation.task, evaluation.data, inputs.protocols[evaluation.task]
    numbers = _task_numbers(inputs, evaluation) | {"trial": evaluation.trial}
    if start.random:
        numbers |= {"architecture": options.architecture, "weights": start.random}

    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        words = [*_task_words(options, evaluation, parents), "--weights",
                 start.random or parents[start.converted], "--output", folder, "--trial", evaluation.trial]
        words += ["--architecture", options.architecture] if start.random else []
        words += ["--eval-every", options.eval_every] if options.eval_every else []
        words += ["--keep-predictions"] if options.keep_predictions else []
        return _python("transfer", "finetune", *words)

    stage = Stage(
        f"finetune-{start.name}-{evaluation.place}-{evaluation.trial}", numbers, command, product="result.json",
        inputs={} if data is None else {"data": data.training},
        evaluation={"protocol": protocol.evaluation} | ({} if data is None else {"data": data.evaluation}),
        parents=(("data",) if data is None else ()) + ((start.converted,) if start.converted else ()),
        gates=(f"preflight-{Evaluation(task, data).place}",) if options.preflight else (),
        cost=estimate.finetuning(task, protocol.iterations, options.scale), disk_gb=estimate.FINETUNE_GB,
        stays_gb=0.0 if options.keep == keep.NONE else estimate.MODEL_GB,
        kind="finetune", array=f"finetune-{start.name}", task=task,
        gpu_hours=estimate.finetuning_hours(task, protocol.iterations, options.scale), steps=protocol.iterations,
        batch=protocol.batch)

    origin = Origin(start.row, data and data.label, options.demo, options.results)

    def finish(folder: Path, key: str) -> None:
        publish(folder, key, stage, origin)
        keep.tidy(folder, options.keep)

    stage.finish = finish
    return stage


@dataclass(frozen=True)
class Origin:
    """Whose a result is: its row, the label of the dataset (None: the demo's); and the folder of all results."""

    row: str
    label: str | None
    demo: bool
    results: Path

    def sign(self, record: dict[str, Any], stage: Stage, key: str) -> None:
        """Write it into a result or probe, with the stage that made it."""
        record |= {"method": self.row, "demo": self.demo,
                   "stage": {"name": stage.name, "key": stage.result_key(key), "planned": stage.planned}}
        if self.label is not None:
            record["dataset"] |= {"label": self.label}


def publish(folder: Path, key: str, stage: Stage, origin: Origin) -> Path:
    """Put a finished evaluation into results/runs."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    result["epochs"] = result["weights"]["epochs"]
    origin.sign(result, stage, key)
    return results.write_result(origin.results / "runs", result)


def _probe(options: Options, start: Start, evaluation: Evaluation) -> Stage:
    data = evaluation.data

    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        words: list[object] = ["--weights", parents[start.converted], "--data",
                               _place(options, evaluation, parents), "--task", evaluation.task, "--output", folder]
        words += ["--device", options.device] if options.device != "auto" else []
        return _python("transfer", "probe", *words)

    stage = Stage(
        f"probe-{start.name}-{evaluation.place}", {"task": evaluation.task}, command, product="probe.json",
        inputs={} if data is None else {"training": data.training, "evaluation": data.evaluation},
        parents=(*(("data",) if data is None else ()), start.converted),
        cost="minutes", disk_gb=0.01, kind="probe", task=evaluation.task)

    origin = Origin(start.row, data and data.label, options.demo, options.results)

    def finish(folder: Path, key: str) -> None:
        probe = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
        origin.sign(probe, stage, key)
        probe_table.write_probe(origin.results / "probes", probe)

    stage.finish = finish
    return stage


def count_gpus(options: Options) -> int:
    """GPUs to use; 0 on a CPU. The demo's batches are for one, unless a number is said."""
    if options.device == "cpu":
        return 0
    if options.gpus is not None:
        return options.gpus
    return min(_visible_gpus(), 1) if options.demo else _visible_gpus()


def _visible_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([word for word in visible.split(",") if word.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
