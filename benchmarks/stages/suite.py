"""The stages of a run: preflights; pretrain -> convert -> fine-tune for each row and evaluation."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.options import kept_models
from benchmarks.options.checks import slug
from benchmarks.options.evaluations import PAIRED, Evaluation
from benchmarks.options.gpus import count_gpus
from benchmarks.options.inputs import PROBED
from benchmarks.options.pretrainings import Pretraining
from benchmarks.options.run_options import CLOVE, RANDOM, RANDOM_CONVOLUTIONS, Options
from benchmarks.stages import estimate
from benchmarks.stages.checked_inputs import DEMO_DATA, Inputs, find_inputs
from benchmarks.stages.publish import Origin, publish, publish_probe
from benchmarks.stages.stage import Stage, plan_keys
from pretrain.common.architectures import STANDARD
from pretrain.common.errors import UserError
from transfer import tasks
from transfer.settings.random_starts import RANDOM_STARTS

DISPLAY = {CLOVE: "CLoVE", **{start.method: start.row for start in RANDOM_STARTS}}


@dataclass(frozen=True)
class Start:
    """What the fine-tunings of a row start from. `name`: in the names of stages. `control`: only the batch norm is that
    of the pretraining, the convolutions are drawn anew."""

    method: str
    name: str
    pretraining: Pretraining | None = None
    checkpoint: Path | None = None
    random: str = ""  # transfer's name of random weights
    control: bool = False

    @property
    def row(self) -> str:
        """Its name in the tables."""
        shown = DISPLAY.get(self.method, self.method)
        return f"{shown} (random convolutions)" if self.control else shown

    @property
    def converted(self) -> str:
        """The stage whose backbone they take; "" for random weights."""
        return "" if self.random else f"convert-{self.name}"


def plan(options: Options) -> list[Stage]:
    """All stages in an order in which each one's parents come before it. Raises one `UserError` naming all that is
    missing."""
    return build(options, find_inputs(options))


def build(options: Options, inputs: Inputs) -> list[Stage]:
    """The stages, without a look at the disk. Raises `UserError` when two would have one name."""
    stages: list[Stage] = []
    if options.demo:
        stages.append(_demo_data(options))
    if options.preflight:
        for task in options.tasks:
            stages += [_preflight(options, one) for one in inputs.evaluations(task)]
    begun: list[Start] = []
    for start, trials in rounds(options):
        if start not in begun:
            begun.append(start)
            stages += _backbone(options, start, inputs)
        stages += [_finetune(options, start, one) for one in evaluations(options, inputs, trials)]
    names = [stage.name for stage in stages]
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise UserError(f"two stages would be called {double}: choose another label for a pretraining or dataset")
    plan_keys(stages)
    return stages


def starts(options: Options) -> list[Start]:
    """Each method's, a pretrained one's and a control's for each seed of the pretraining."""
    found: list[Start] = []
    for method in options.methods:
        if method in RANDOM:
            found.append(Start(method, method, random=RANDOM[method]))
        elif method in options.checkpoints:
            found.append(Start(method, slug(method), checkpoint=options.checkpoints[method]))
        else:
            label = method.removesuffix(RANDOM_CONVOLUTIONS)
            control = label != method
            found += [Start(label, f"{one.name}{RANDOM_CONVOLUTIONS * control}", one, control=control)
                      for one in options.pretrainings if one.label == label]
    return found


def rounds(options: Options) -> list[tuple[Start, tuple[int, ...]]]:
    """The starts, each with the trials of its fine-tunings, in the order in which they run.

    Paired trials run seed by seed, each with all rows, so that what is done early can be compared.
    """
    if options.trials != PAIRED:
        return [(start, tuple(range(options.trials))) for start in starts(options)]
    found: list[tuple[Start, tuple[int, ...]]] = []
    for seed in dict.fromkeys(one.seed for one in options.pretrainings):
        for start in starts(options):
            if start.pretraining is None or start.pretraining.seed == seed:
                found.append((start, (seed,)))
    return found


def evaluations(options: Options, inputs: Inputs, trials: tuple[int, ...]) -> list[Evaluation]:
    """What each row is measured on."""
    return [replace(one, share=share, trial=trial) for task in options.tasks for one in inputs.evaluations(task)
            for share in options.train_shares for trial in trials]


def _python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def _demo_data(options: Options) -> Stage:
    counts = DEMO_DATA[options.scale]
    words = [word for key, value in counts.items() for word in (f"--{key}", value)]
    return Stage(
        "data", counts, lambda folder, _: _python("benchmarks.demo.demo_data", "--output", folder / "data", *words),
        product="data", cost="seconds", disk_gb=0.01)


def _backbone(options: Options, start: Start, inputs: Inputs) -> list[Stage]:
    """What makes the backbone of a start and looks at it; nothing for random weights."""
    if start.random:
        return []
    stages = [_pretrain(options, start, inputs)] if start.pretraining and not start.control else []
    stages.append(_convert(options, start, inputs))
    for task in options.tasks if options.probes else ():
        if task in PROBED:
            stages += [_probe(options, start, one) for one in inputs.evaluations(task)]
    return stages


def _pretrain(options: Options, start: Start, inputs: Inputs) -> Stage:
    config = start.pretraining.config
    photos = inputs.photos.get(start.pretraining.images)  # None: the demo's
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
        cost=estimate.pretraining(images, config),
        disk_gb=estimate.disk_gb(estimate.PRETRAIN_GB, train.architecture), kind="pretrain",
        gpu_hours=estimate.pretraining_hours(images, config),
        core_hours=estimate.pretraining_core_hours(images, config),
        steps=images // train.batch_size * train.epochs, batch=train.batch_size)


def _convert(options: Options, start: Start, inputs: Inputs) -> Stage:
    source = start.checkpoint
    numbers: dict[str, object] = {"method": start.row}
    words: list[object] = ["--method", start.row]
    if source and options.branch:
        numbers["branch"] = options.branch
        words += ["--branch", options.branch]
    if start.control:  # as many draws as pretrainings
        numbers["random_convolutions"] = start.pretraining.seed
        words += ["--random-convolutions", start.pretraining.seed]
    parent = f"pretrain-{start.pretraining.name}" if start.pretraining else ""

    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        file = source or parents[parent] / "backbone.safetensors"
        return _python("transfer", "convert", file, "--output", folder, *words)

    return Stage(
        start.converted, numbers, command, product="detectron2.pkl",
        inputs={"checkpoint": inputs.checkpoints[start.method]} if source else {},
        parents=(parent,) if parent else (), cost="under a minute",
        disk_gb=estimate.disk_gb(estimate.CONVERT_GB, _largest(options, start)))


def _largest(options: Options, start: Start) -> str:
    """The architecture that a start may have: a checkpoint's is not known before it is converted."""
    return STANDARD if start.checkpoint else options.architecture


def _data_words(evaluation: Evaluation, parents: dict[str, Path]) -> list[object]:
    """Where a task's data is, on the command line of transfer."""
    if evaluation.data is not None:
        return evaluation.data.arguments()
    return ["--data", parents["data"] / "data" / tasks.get(evaluation.task).demo_layout]


def _task_words(options: Options, evaluation: Evaluation, parents: dict[str, Path]) -> list[object]:
    """A task on the command line of transfer, with where its data is and what runs it."""
    words: list[object] = [*options.protocol(evaluation.task).arguments(), *_data_words(evaluation, parents),
                           "--num-gpus", max(count_gpus(options), 1)]
    words += ["--train-share", evaluation.share] if evaluation.share != 1 else []
    words += ["--device", options.device] if options.device != "auto" else []
    return words


def _preflight(options: Options, evaluation: Evaluation) -> Stage:
    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        return _python("transfer", "preflight", *_task_words(options, evaluation, parents), "--architecture",
                       options.architecture, "--output", folder / "preflight")

    return Stage(
        f"preflight-{evaluation.place}", evaluation.numbers | {"architecture": options.architecture}, command,
        product="preflight/preflight.json", inputs=evaluation.inputs, parents=evaluation.parents, cost="minutes",
        disk_gb=0.5, kind="preflight", array="preflight", task=evaluation.task)


def _finetune(options: Options, start: Start, evaluation: Evaluation) -> Stage:
    task, data, protocol = evaluation.task, evaluation.data, evaluation.protocol
    numbers = evaluation.numbers | {"trial": evaluation.trial}
    if start.random:
        numbers |= {"architecture": options.architecture, "weights": start.random}

    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        words = [*_task_words(options, evaluation, parents), "--weights",
                 start.random or parents[start.converted], "--output", folder, "--trial", evaluation.trial]
        words += ["--architecture", options.architecture] if start.random else []
        words += ["--eval-every", options.eval_every] if options.eval_every else []
        words += ["--keep-predictions"] if options.keep_predictions else []
        return _python("transfer", "finetune", *words)

    architecture = _largest(options, start)
    core_hours = estimate.finetuning_core_hours(protocol, options.architecture, data.val_images if data else 0)
    stage = Stage(
        f"finetune-{start.name}-{evaluation.place}-{evaluation.trial}", numbers, command, product="result.json",
        inputs={} if data is None else {"data": data.training},
        evaluation={"protocol": protocol.evaluation} | ({} if data is None else {"data": data.evaluation}),
        parents=evaluation.parents + ((start.converted,) if start.converted else ()),
        gates=(f"preflight-{replace(evaluation, share=1.0).place}",) if options.preflight else (),
        cost=estimate.finetuning(task, protocol.iterations, protocol.scale, core_hours), core_hours=core_hours,
        disk_gb=estimate.disk_gb(estimate.FINETUNE_GB, architecture),
        stays_gb=0.0 if options.keep == kept_models.NONE else estimate.disk_gb(estimate.MODEL_GB, architecture),
        kind="finetune", array=f"finetune-{start.name}", task=task,
        gpu_hours=estimate.finetuning_hours(task, protocol.iterations, protocol.scale), steps=protocol.iterations,
        batch=protocol.batch)

    origin = _origin(options, start, evaluation)

    def finish(folder: Path, key: str) -> None:
        publish(folder, key, stage, origin)
        kept_models.tidy(folder, options.keep)

    stage.finish = finish
    return stage


def _probe(options: Options, start: Start, evaluation: Evaluation) -> Stage:
    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        words: list[object] = ["--weights", parents[start.converted], *_data_words(evaluation, parents), "--task",
                               evaluation.task, "--output", folder]
        words += ["--device", options.device] if options.device != "auto" else []
        return _python("transfer", "probe", *words)

    stage = Stage(
        f"probe-{start.name}-{evaluation.place}", {"task": evaluation.task}, command, product="probe.json",
        inputs=evaluation.inputs, parents=(*evaluation.parents, start.converted),
        cost="minutes", disk_gb=0.01, kind="probe", task=evaluation.task)

    origin = _origin(options, start, evaluation)

    def finish(folder: Path, key: str) -> None:
        publish_probe(folder, key, stage, origin)

    stage.finish = finish
    return stage


def _origin(options: Options, start: Start, evaluation: Evaluation) -> Origin:
    images = start.pretraining.images if start.pretraining else ""
    return Origin(start.row, evaluation.data and evaluation.data.label, options.demo, options.results, images)
