"""The graph: preflights; pretrain -> convert -> fine-tune for each task and trial; what there is, what each needs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks import estimate, keep, probe_table, results
from benchmarks.inputs import Photos, TaskData, find_photos, read_task, task_folder
from benchmarks.options import RANDOM, ROOT, Options, slug
from benchmarks.stage import Stage
from pretrain.atomic import sha256_file
from pretrain.errors import UserError
from transfer import tasks

DISPLAY = {"clove": "CLoVE", "rand": "Rand init", "rand_msra": "Rand init (MSRA pixels)",
           "rand_zero_gamma": "Rand init (zero gamma)"}
C4 = "c4"  # as the heads of a task: a C4 backbone, without a choice
CONFIGS = ROOT / "transfer" / "configs"
DEMO_FOLDERS = {"coco-c4": "coco"}  # of a task, where it is not the task's name
PROBED = ("coco", "cityscapes")  # tasks with labels for every pixel
# Of generated data: what each scale of a demo gets.
DEMO_DATA = {"demo": {"seed": 0, "photos": 192, "train": 24, "val": 8},
             "tiny": {"seed": 0, "photos": 8, "train": 4, "val": 2}}


@dataclass(frozen=True)
class Inputs:
    """What was found on the disk: pretraining images, each task's data, SHA-256 of each checkpoint."""

    photos: Photos | None = None
    data: dict[str, TaskData] = field(default_factory=dict)
    checkpoints: dict[str, str] = field(default_factory=dict)


def plan(options: Options) -> list[Stage]:
    """All stages in an order in which each one's parents come before it. Raises one `UserError` naming all that is
    missing."""
    return build(options, find_inputs(options))


def find_inputs(options: Options) -> Inputs:
    """Look at everything that the stages read, which can take minutes. Raises one `UserError` naming all that is
    missing, or a wrong --set."""
    _check_overrides(options)
    photos, data = (None, {}) if options.demo else _find_inputs(options)
    # Absolute: what is planned here may run in a job that starts elsewhere.
    return Inputs(photos and replace(photos, folder=photos.folder.absolute()),
                  {task: replace(one, folder=one.folder.absolute()) for task, one in data.items()},
                  {name: sha256_file(path) for name, path in options.checkpoints.items()})


def build(options: Options, inputs: Inputs) -> list[Stage]:
    """The stages, without a look at the disk."""
    stages: list[Stage] = []
    if options.demo:
        stages.append(_demo_data(options))
    if options.preflight:
        stages += [_preflight(options, task, inputs.data.get(task)) for task in options.tasks]
    for method in options.methods:
        if method == "clove":
            stages.append(_pretrain(options, inputs.photos))
        if method not in RANDOM:
            stages.append(_convert(options, method, inputs))
            if options.probes:
                stages += [_probe(options, method, task, inputs.data.get(task)) for task in options.tasks
                           if task in PROBED]
        stages += [_finetune(options, method, task, trial, inputs.data.get(task))
                   for task in options.tasks for trial in range(options.trials)]
    return stages


def _check_overrides(options: Options) -> None:
    """A wrong --set, --fit, --schedule, --solver or number of GPUs is told now, not when the pretraining is done."""
    processes = max(1, count_gpus(options))
    for task, overrides in options.overrides.items():
        schedule, solver = options.schedules.get(task), options.solvers.get(task)
        if overrides or options.fit or schedule or solver or processes > 1:
            from transfer import fit, settings  # imports detectron2: only when there is something to check

            try:
                protocol = task, _heads(options, task), options.scale
                length, fitting = fit.chosen(schedule, options.fit)
                settings.check_overrides(*protocol, tuple(f"{key}={value}" for key, value in overrides.items()), length,
                                         solver, fitting, processes)
            except UserError as error:
                raise UserError(f"task {task}: {error}") from None


def _heads(options: Options, task: str) -> str:
    own = tasks.get(task).default_heads
    if own == C4 and options.heads:
        raise UserError(f"--heads {options.heads}: task {task} has a C4 backbone and no head family to choose; leave "
                        "out the option or the task")
    return options.heads or own


def _find_inputs(options: Options) -> tuple[Photos | None, dict[str, TaskData]]:
    missing: list[str] = []

    def look(find: Callable[[], Any]) -> Any:
        try:
            return find()
        except UserError as error:
            missing.append(str(error))
            return None

    photos = look(lambda: find_photos(options.photos, options.imagenet)) if options.pretrain else None
    data = {task: look(lambda task=task: read_task(task, task_folder(task, options.data))) for task in options.tasks}
    if photos is not None and photos.images < options.pretrain.train.batch_size:
        missing.append(f"{photos.images} pretraining images are fewer than one batch of "
                       f"{options.pretrain.train.batch_size}: use --recipe mini, or --set pretrain.batch_size=N")
    if missing:
        listed = "\n".join(f"  - {line}" for line in missing)
        raise UserError(f"{len(missing)} input{'s' if len(missing) > 1 else ''} missing or wrong, nothing was run:\n"
                        f"{listed}\n  fewer tasks: --tasks; a run without any data: --demo")
    return photos, data


def _python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def _demo_data(options: Options) -> Stage:
    counts = DEMO_DATA[options.scale]
    words = [word for key, value in counts.items() for word in (f"--{key}", value)]
    return Stage(
        "data", counts, lambda folder, _: _python("benchmarks.demo_data", "--output", folder / "data", *words),
        product="data", cost="seconds", disk_gb=0.01)


def _pretrain(options: Options, photos: Photos | None) -> Stage:
    config = options.pretrain
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
    return Stage(
        "pretrain", config.identity(), command, product="backbone.safetensors",
        inputs={} if options.demo else {"images": photos.digest}, parents=("data",) if options.demo else (),
        cost=estimate.pretraining(images, config), disk_gb=estimate.PRETRAIN_GB, kind="pretrain",
        gpu_hours=estimate.pretraining_hours(images, config))


def _convert(options: Options, method: str, inputs: Inputs) -> Stage:
    words: list[object] = ["--method", DISPLAY.get(method, method)]
    source = options.checkpoints.get(method)
    branch = {"branch": options.branch} if source and options.branch else {}
    words += ["--branch", options.branch] if branch else []

    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        file = source or parents["pretrain"] / "backbone.safetensors"
        return _python("transfer", "convert", file, "--output", folder, *words)

    return Stage(
        f"convert-{slug(method)}", {"method": DISPLAY.get(method, method), **branch}, command,
        product="detectron2.pkl", inputs={"checkpoint": inputs.checkpoints[method]} if source else {},
        parents=() if source else ("pretrain",),
        cost="under a minute", disk_gb=0.25)


def _chosen(options: Options, task: str) -> dict[str, str]:
    chosen = {"schedule": options.schedules.get(task), "solver": options.solvers.get(task), "fit": options.fit}
    return {name: value for name, value in chosen.items() if value}


def _task_numbers(options: Options, task: str) -> dict[str, Any]:
    """The values of a task that change a result, whatever the method."""
    known = tasks.get(task)
    return {"configs": _configs(task, _heads(options, task), options.scale),
            "schedules": {name: [one.iterations, one.steps] for name, one in known.schedules.items()},
            "solvers": dict(known.solvers),
            "overrides": options.overrides.get(task, {}), "scale": options.scale} | _chosen(options, task)


def _task_words(options: Options, task: str, data: TaskData | None, parents: dict[str, Path]) -> list[object]:
    """The same on the command line, with where the data are and what runs it."""
    place = parents["data"] / "data" / DEMO_FOLDERS.get(task, task) if options.demo else data.folder
    words: list[object] = ["--task", task, "--data", place, "--scale", options.scale,
                           "--num-gpus", max(count_gpus(options), 1)]
    heads = _heads(options, task)
    words += ["--heads", heads] if heads != C4 else []
    words += ["--device", options.device] if options.device != "auto" else []
    for name, value in _chosen(options, task).items():
        words += [f"--{name}", value]
    for key, value in options.overrides.get(task, {}).items():
        words += ["--set", f"{key}={value}"]
    return words


def _preflight(options: Options, task: str, data: TaskData | None) -> Stage:
    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        return _python("transfer", "preflight", *_task_words(options, task, data, parents), "--architecture",
                       options.architecture, "--output", folder / "preflight")

    return Stage(
        f"preflight-{task}", _task_numbers(options, task) | {"architecture": options.architecture}, command,
        product="preflight/preflight.json", inputs={} if options.demo else {"data": data.digest},
        parents=("data",) if options.demo else (), cost="minutes", disk_gb=0.5, kind="preflight", task=task)


def _finetune(options: Options, method: str, task: str, trial: int, data: TaskData | None) -> Stage:
    architecture = options.architecture
    numbers = _task_numbers(options, task) | {"trial": trial}
    start = RANDOM.get(method)
    if start:
        numbers["architecture"] = architecture
    if start not in (None, "random"):
        numbers["weights"] = start
    converted = None if start else f"convert-{slug(method)}"

    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        words = [*_task_words(options, task, data, parents), "--weights", start or parents[converted],
                 "--output", folder, "--trial", trial]
        words += ["--architecture", architecture] if start else []
        words += ["--eval-every", options.eval_every] if options.eval_every else []
        words += ["--keep-predictions"] if options.keep_predictions else []
        return _python("transfer", "finetune", *words)

    parents = (("data",) if options.demo else ()) + ((converted,) if converted else ())
    stage = Stage(
        f"finetune-{slug(method)}-{task}-{trial}", numbers, command, product="result.json",
        inputs={} if options.demo else {"data": data.digest}, parents=parents,
        gates=(f"preflight-{task}",) if options.preflight else (),
        cost=estimate.finetuning(task, iterations(options, task), options.scale), disk_gb=estimate.FINETUNE_GB,
        stays_gb=0.0 if options.keep == keep.NONE else estimate.MODEL_GB,
        kind="finetune", task=task, gpu_hours=estimate.finetuning_hours(task, iterations(options, task), options.scale))

    def finish(folder: Path, key: str) -> None:
        publish(folder, key, stage.name, method, data, options)
        keep.tidy(folder, options.keep)

    stage.finish = finish
    return stage


def publish(
    folder: Path, key: str, stage: str, method: str, data: TaskData | None, options: Options
) -> Path:
    """Put a finished evaluation into results/runs, with the row it belongs to."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    result |= {"method": DISPLAY.get(method, method), "epochs": result["weights"]["epochs"], "demo": options.demo,
               "stage": {"name": stage, "key": key}}
    if data is not None:
        result["dataset"] |= {"name": data.folder.absolute().name}
    return results.write_result(options.results / "runs", result)


def _probe(options: Options, method: str, task: str, data: TaskData | None) -> Stage:
    converted = f"convert-{slug(method)}"

    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        place = parents["data"] / "data" / task if options.demo else data.folder
        words: list[object] = ["--weights", parents[converted], "--data", place, "--task", task, "--output", folder]
        if options.device != "auto":
            words += ["--device", options.device]
        return _python("transfer", "probe", *words)

    def finish(folder: Path, key: str) -> Path:
        probe = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
        probe |= {"method": DISPLAY.get(method, method), "demo": options.demo,
                  "stage": {"name": stage.name, "key": key}}
        if data is not None:
            probe["dataset"] |= {"name": data.folder.absolute().name}
        return probe_table.write_probe(options.results / "probes", probe)

    stage = Stage(
        f"probe-{slug(method)}-{task}", {"task": task}, command, product="probe.json",
        inputs={} if options.demo else {"data": data.digest}, parents=(*(("data",) if options.demo else ()), converted),
        cost="minutes", disk_gb=0.01, kind="probe", finish=finish)
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


def _config(name: str) -> dict[str, Any]:
    """The values of one of transfer's files: what YAML reads, so that an edited comment changes nothing."""
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))


def _configs(task: str, heads: str, scale: str) -> dict[str, dict[str, Any]]:
    """The files that make a fine-tuning's config, bases included, as transfer/settings.py lays them."""
    own = [] if heads == C4 else [f"heads-{heads}"]
    small = [] if scale == "full" else [f"scale-{scale}-c4" if heads == C4 else f"scale-{scale}"]
    found: dict[str, dict[str, Any]] = {}
    for name in [task, *own, *small]:
        while name:
            found[name] = _config(name)
            name = found[name].get("_BASE_", "").removesuffix(".yaml")
    return found


def iterations(options: Options, task: str) -> int:
    """Length of a fine-tuning."""
    return int(solver_value(options, task, "MAX_ITER"))


def solver_value(options: Options, task: str, name: str) -> str:
    """A value of detectron2's SOLVER, as overrides, scale, schedule, task and base say, in this order."""
    if f"SOLVER.{name}" in options.overrides.get(task, {}):
        return options.overrides[task][f"SOLVER.{name}"]
    for file in ([] if options.scale == "full" else [f"scale-{options.scale}"]) + [task]:
        while file:
            values = _config(file)
            if file == task and name == "MAX_ITER":
                known = tasks.get(task)
                # Without a preset for one GPU, which follows after an underscore.
                chosen = (options.schedules.get(task) or known.default_schedule).partition("_")[0]
                return str(known.schedules[chosen].iterations)
            if name in values.get("SOLVER", {}):
                return str(values["SOLVER"][name])
            file = values.get("_BASE_", "").removesuffix(".yaml")
    raise KeyError(name)
