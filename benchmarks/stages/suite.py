"""The stages of a run: preflights; pretrain -> convert -> fine-tune for each row and evaluation."""

import sys
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.options import kept_models
from benchmarks.options.checks import option_of, slug
from benchmarks.options.evaluations import PAIRED, Evaluation
from benchmarks.options.gpus import count_gpus
from benchmarks.options.inputs import PROBED
from benchmarks.options.pretrainings import Pretraining
from benchmarks.options.run_options import CLOVE, RANDOM, RANDOM_CONVOLUTIONS, Options
from benchmarks.stages import estimate
from benchmarks.stages.checked_inputs import DEMO_DATA, Inputs
from benchmarks.stages.publish import Origin, publish, publish_probe
from benchmarks.stages.stage import Stage, plan_keys
from pretrain.common.architectures import STANDARD
from pretrain.common.errors import refuse
from transfer import tasks
from transfer.settings.random_starts import RANDOM_STARTS

DISPLAY = {CLOVE: "CLoVE", **{start.method: start.row for start in RANDOM_STARTS}}


@dataclass(frozen=True)
class Start:
    """What the fine-tunings of a row start from. `name`: in the names of stages. `control`: only
    the batch norm is that of the pretraining, the convolutions are drawn anew."""

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
        if self.control:
            shown += " (random convolutions)"
        return shown

    @property
    def converted(self) -> str:
        """The stage whose backbone they take, unless their weights are random."""
        return f"convert-{self.name}"


def build(options: Options, inputs: Inputs) -> list[Stage]:
    """All stages in an order in which each one's parents come before it, without a look at the
    disk. Raises `UserError` when two would have one name."""
    stages: list[Stage] = []
    if options.demo:
        counts = DEMO_DATA[options.scale]
        stages.append(Stage(
            "data", counts,
            lambda folder, _: _python("benchmarks.demo.demo_data", "--output", folder / "data", *_arguments(counts)),
            product="data", cost="seconds", disk_gb=0.01))
    if options.preflight:
        for task in options.tasks:
            stages += [_preflight(options, one) for one in inputs.evaluations(task)]
    begun: list[Start] = []
    for start, trials in rounds(options):
        if start not in begun:
            begun.append(start)
            stages += _backbone(options, start, inputs)
        stages += [_finetune(options, start, one) for one in evaluations(options, inputs, trials)]
    name, count = Counter(stage.name for stage in stages).most_common(1)[0]
    refuse((count > 1,
            f"two stages would be called {name}: choose another label for a pretraining or dataset"))
    plan_keys(stages)
    return stages


def starts(options: Options) -> list[Start]:
    """Each method's, a pretrained one's and a control's for each seed of the pretraining."""
    found: list[Start] = []
    for method in options.methods:
        label = method.removesuffix(RANDOM_CONVOLUTIONS)
        if method in RANDOM:
            found.append(Start(method, method, random=RANDOM[method]))
        elif method in options.checkpoints:
            found.append(Start(method, slug(method), checkpoint=options.checkpoints[method]))
        for one in options.pretrainings:
            if one.label == label:
                name = one.name + method[len(label):]
                found.append(Start(label, name, one, control=method != label))
    return found


def rounds(options: Options) -> list[tuple[Start, tuple[int, ...]]]:
    """The starts, each with the trials of its fine-tunings, in the order in which they run.

    Paired trials run seed by seed, each with all rows, so that what is done early can be compared.
    """
    if options.trials != PAIRED:
        return [(start, tuple(range(options.trials))) for start in starts(options)]
    found = []
    for seed in dict.fromkeys(one.seed for one in options.pretrainings):
        for start in starts(options):
            if start.pretraining is None or start.pretraining.seed == seed:
                found.append((start, (seed,)))
    return found


def evaluations(options: Options, inputs: Inputs, trials: tuple[int, ...]) -> list[Evaluation]:
    """What each row is measured on."""
    found = []
    for task in options.tasks:
        for one, share, trial in product(inputs.evaluations(task), options.train_shares, trials):
            found.append(replace(one, share=share, trial=trial))
    return found


def _python(module: str, *arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def _arguments(values: dict[str, Any]) -> list[object]:
    """Options with their values, on the command line."""
    found: list[object] = []
    for name, value in values.items():
        found.append(option_of(name))
        found += value if isinstance(value, tuple) else (value,)
    return found


def _when(wanted: object, *arguments: object) -> list[object]:
    """`arguments` of a command when they are wanted."""
    return list(arguments) if wanted else []


def _backbone(options: Options, start: Start, inputs: Inputs) -> list[Stage]:
    """What makes the backbone of a start and looks at it; nothing for random weights."""
    if start.random:
        return []
    stages: list[Stage] = []
    if start.pretraining and not start.control:
        stages.append(_pretrain(options, start, inputs))
    stages.append(_convert(options, start, inputs))
    for task in options.tasks:
        if options.probes and task in PROBED:
            stages += [_probe(options, start, one) for one in inputs.evaluations(task)]
    return stages


def _pretrain(options: Options, start: Start, inputs: Inputs) -> Stage:
    config = start.pretraining.config
    train = config.train
    photos = inputs.photos.get(start.pretraining.images)
    if options.demo:
        images, hashes, parents = DEMO_DATA[options.scale]["photos"], {}, ("data",)
    else:
        images, hashes, parents = photos.images, {"images": photos.digest}, ()
    values = config.flat()
    if options.device != "auto":
        values["device"] = options.device

    def command(folder: Path, outputs: dict[str, Path]) -> list[str]:
        source = outputs["data"] / "data" / "photos" if options.demo else photos.folder
        # The resolved values, all of them: a recipe edited meanwhile cannot change a run that has begun.
        arguments = ["--data", source, "--output", folder, *_arguments(values)]
        gpus = count_gpus(options)
        if gpus > 1:
            return _python("torch.distributed.run", "--standalone", "--nproc-per-node", gpus, "-m", "pretrain",
                           *arguments)
        return _python("pretrain", *arguments)

    cost = estimate.pretraining(images, config)
    return Stage(
        f"pretrain-{start.name}", config.identity(), command, product="backbone.safetensors", inputs=hashes,
        parents=parents, cost=cost.words, disk_gb=estimate.disk_gb(estimate.PRETRAIN_GB, train.architecture),
        kind="pretrain", gpu_hours=cost.gpu_hours, core_hours=cost.core_hours,
        steps=images // train.batch_size * train.epochs, batch=train.batch_size)


def _convert(options: Options, start: Start, inputs: Inputs) -> Stage:
    parents: tuple[str, ...] = ()
    hashes: dict[str, str] = {}
    values: dict[str, object] = {"method": start.row}
    if start.checkpoint:
        hashes["checkpoint"] = inputs.checkpoints[start.method]
        if options.branch:
            values["branch"] = options.branch
    else:
        parents = (f"pretrain-{start.pretraining.name}",)
        if start.control:  # as many draws as pretrainings
            values["random_convolutions"] = start.pretraining.seed

    def command(folder: Path, outputs: dict[str, Path]) -> list[str]:
        file = start.checkpoint or outputs[parents[0]] / "backbone.safetensors"
        return _python("transfer", "convert", file, "--output", folder, *_arguments(values))

    return Stage(
        start.converted, values, command, product="detectron2.pkl", inputs=hashes, parents=parents,
        cost="under a minute", disk_gb=estimate.disk_gb(estimate.CONVERT_GB, _largest(options, start)))


def _largest(options: Options, start: Start) -> str:
    """The architecture that a start may have: a checkpoint's is not known before it is converted."""
    return STANDARD if start.checkpoint else options.architecture


def _data_arguments(evaluation: Evaluation, outputs: dict[str, Path]) -> list[object]:
    """Where a task's data is, on the command line of transfer."""
    if evaluation.data is not None:
        return evaluation.data.arguments()
    return ["--data", outputs["data"] / "data" / tasks.get(evaluation.task).demo_layout]


def _task_arguments(options: Options, evaluation: Evaluation, outputs: dict[str, Path]) -> list[object]:
    """A task on the command line of transfer, with where its data is and what runs it."""
    return [*options.protocol(evaluation.task).arguments(), *_data_arguments(evaluation, outputs),
            "--num-gpus", max(count_gpus(options), 1),
            *_when(evaluation.share != 1, "--train-share", evaluation.share),
            *_when(options.device != "auto", "--device", options.device)]


def _preflight(options: Options, evaluation: Evaluation) -> Stage:
    def command(folder: Path, outputs: dict[str, Path]) -> list[str]:
        return _python("transfer", "preflight", *_task_arguments(options, evaluation, outputs), "--architecture",
                       options.architecture, "--output", folder / "preflight")

    return Stage(
        f"preflight-{evaluation.place}", evaluation.numbers | {"architecture": options.architecture}, command,
        product="preflight/preflight.json", inputs=evaluation.inputs, parents=evaluation.parents, cost="minutes",
        disk_gb=0.5, kind="preflight", array="preflight", task=evaluation.task)


def _finetune(options: Options, start: Start, evaluation: Evaluation) -> Stage:
    protocol = evaluation.protocol
    numbers = evaluation.numbers | {"trial": evaluation.trial}
    if start.random:
        numbers |= {"architecture": options.architecture, "weights": start.random}
    inputs, evaluated, images = {}, {"protocol": protocol.evaluation}, 0
    if evaluation.data is not None:
        inputs = {"data": evaluation.data.training}
        evaluated["data"] = evaluation.data.evaluation
        images = evaluation.data.val_images

    def command(folder: Path, outputs: dict[str, Path]) -> list[str]:
        return _python(
            "transfer", "finetune", *_task_arguments(options, evaluation, outputs),
            "--weights", start.random or outputs[start.converted], "--output", folder, "--trial", evaluation.trial,
            *_when(start.random, "--architecture", options.architecture),
            *_when(options.eval_every, "--eval-every", options.eval_every),
            *_when(options.keep_predictions, "--keep-predictions"))

    def finish(folder: Path, key: str) -> None:
        publish(folder, key, stage, origin)
        kept_models.tidy(folder, options.keep)

    origin = _origin(options, start, evaluation)
    largest = _largest(options, start)
    disk_gb = passing_gb = estimate.disk_gb(estimate.FINETUNE_GB, largest)
    if options.keep != kept_models.NONE:
        passing_gb -= estimate.disk_gb(estimate.MODEL_GB, largest)
    cost = estimate.finetuning(evaluation.task, protocol, options.architecture, images)
    stage = Stage(
        f"finetune-{start.name}-{evaluation.place}-{evaluation.trial}", numbers, command, product="result.json",
        inputs=inputs, evaluation=evaluated, finish=finish,
        parents=(*evaluation.parents, *_when(not start.random, start.converted)),
        gates=tuple(_when(options.preflight, f"preflight-{replace(evaluation, share=1.0).place}")),
        cost=cost.words, disk_gb=disk_gb, passing_gb=passing_gb,
        kind="finetune", array=f"finetune-{start.name}", task=evaluation.task, core_hours=cost.core_hours,
        gpu_hours=cost.gpu_hours, steps=protocol.iterations, batch=protocol.batch)
    return stage


def _probe(options: Options, start: Start, evaluation: Evaluation) -> Stage:
    def command(folder: Path, outputs: dict[str, Path]) -> list[str]:
        return _python("transfer", "probe", "--weights", outputs[start.converted],
                       *_data_arguments(evaluation, outputs), "--task", evaluation.task, "--output", folder,
                       *_when(options.device != "auto", "--device", options.device))

    def finish(folder: Path, key: str) -> None:
        publish_probe(folder, key, stage, origin)

    origin = _origin(options, start, evaluation)
    stage = Stage(
        f"probe-{start.name}-{evaluation.place}", {"task": evaluation.task}, command, product="probe.json",
        inputs=evaluation.inputs, parents=(*evaluation.parents, start.converted), finish=finish, cost="minutes",
        disk_gb=0.01, kind="probe", task=evaluation.task)
    return stage


def _origin(options: Options, start: Start, evaluation: Evaluation) -> Origin:
    images = start.pretraining.images if start.pretraining else ""
    return Origin(start.row, evaluation.data and evaluation.data.label, options.demo, options.results, images)
