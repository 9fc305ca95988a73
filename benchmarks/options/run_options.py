"""What is asked for: the options of the command line (benchmarks/options/arguments.py), and what they mean together."""

import argparse
import difflib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from benchmarks.options import cluster_file, grid_file, kept_models
from benchmarks.options.arguments import build_parser
from benchmarks.options.cluster import ClusterOptions
from benchmarks.options.evaluations import PAIRED, read_shares, read_trials
from benchmarks.options.inputs import DATA_OPTIONS, PROBED, DataFolder, read_folders, slug
from benchmarks.options.pretrainings import Pretraining, Recipe, pretrainings_of, read_labels, read_seeds, refuse_labels
from benchmarks.records.results import RANDOM as RANDOM_ROWS
from pretrain import ROOT
from pretrain.common.architectures import STANDARD
from pretrain.common.errors import UserError
from pretrain.options.recipe_file import recipe_names
from transfer.settings import request
from transfer.settings.random_starts import RAND, RANDOM_STARTS
from transfer.tasks import TASKS

# Methods that start from random weights: their word of `python -m transfer finetune --weights`.
RANDOM = {start.method: start.weights for start in RANDOM_STARTS}
# After a pretraining's label: a control with its batch norm and random convolutions.
RANDOM_CONVOLUTIONS = ".random_convolutions"
CLOVE = "clove"  # label of the pretraining where none is named


@dataclass(frozen=True)
class Options:
    """What is asked for, resolved: `pretrainings` is empty when nothing is pretrained."""

    demo: bool  # on generated pictures: --demo or --tiny
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    trials: int | Literal["paired"]
    scale: str
    heads: str | None
    checkpoints: dict[str, Path]
    photos: Path | None
    imagenet: Path | None
    data: dict[str, tuple[DataFolder, ...]]  # by option
    pretrainings: tuple[Pretraining, ...] = ()
    train_shares: tuple[float, ...] = (1.0,)  # of a dataset's training images
    architecture: str = STANDARD  # of random methods and preflights: a checkpoint has its own
    overrides: dict[str, dict[str, str]] = field(default_factory=dict)  # per task
    branch: str | None = None  # of checkpoints that hold two networks
    schedules: dict[str, str] = field(default_factory=dict)  # per task, where it is not the published one
    solvers: dict[str, str] = field(default_factory=dict)  # per task, where it is not the common one
    shared: dict[str, object] = field(default_factory=dict)  # options of transfer's own, for all tasks
    eval_every: int = 0
    keep_predictions: bool = False
    keep: str = kept_models.LAST  # which fine-tuned models stay
    output: Path = ROOT / "output"
    results: Path = ROOT / "results"
    device: str = "auto"
    gpus: int | None = None
    jobs: int = 1  # at once on this machine
    dry_run: bool = False
    rerun: tuple[str, ...] = ()
    include_demo: bool = False
    probes: bool = False
    preflight: bool = False
    cluster: ClusterOptions = field(default_factory=ClusterOptions)
    max_jobs: int | None = None  # of Slurm, at once
    said: tuple[str, ...] = ()  # decisions the user should know of

    def protocol(self, task: str) -> request.Protocol:
        """How a task is fine-tuned, as transfer takes it."""
        overrides = tuple(f"{key}={value}" for key, value in self.overrides.get(task, {}).items())
        return request.Protocol(task=task, scale=self.scale, heads=self.heads, schedule=self.schedules.get(task),
                                solver=self.solvers.get(task), overrides=overrides, **self.shared)


def parse(arguments: list[str] | None = None) -> Options:
    """Arguments to options; raises `UserError` for what does not fit together."""
    said: list[str] = []
    parser = build_parser()
    arguments = grid_file.expand(parser, sys.argv[1:] if arguments is None else arguments, said)
    args = cluster_file.parse(parser, arguments, said)
    options = cluster_file.options_of(args)
    demo = "demo" if args.demo else "tiny" if args.tiny else ""
    given = {option: getattr(args, f"data_{option}") for option in DATA_OPTIONS}
    _refuse_beside_demo(args, demo, given)
    recipes = read_labels(args.pretrain)
    labels = tuple(recipes) or (CLOVE,)
    checkpoints = _checkpoints(args.checkpoint, labels)
    controls = tuple(f"{label}{RANDOM_CONVOLUTIONS}" for label in labels)
    refuse_labels(recipes, (*RANDOM, *RANDOM_ROWS, *checkpoints, *controls))
    tasks = () if args.tasks == "none" else _subset("--tasks", args.tasks, tuple(TASKS))
    methods = _methods(args, demo, labels, checkpoints)
    _refuse_without_effect(args, tasks, methods, checkpoints)
    schedules, solvers = _by_task("--schedule", args.schedule, tasks), _by_task("--solver", args.solver, tasks)
    pretrain_values, task_values = _assignments(args.assignments, tasks)
    pretrained = tuple(label for label in labels if label in methods)
    if (pretrain_values or args.pretrain_seeds) and not pretrained:
        option = "--set pretrain...." if pretrain_values else "--pretrain-seeds"
        raise UserError(f"{option} changes nothing here: {', '.join(labels)} is not among the methods")
    if pretrained and not recipes:
        epochs = {} if args.epochs is None else {"epochs": str(args.epochs)}
        recipes = {CLOVE: Recipe(demo or _recipe(args, said), epochs)}
    trials = read_trials(args.trials)
    if trials == PAIRED and not pretrained:
        raise UserError(f"--trials {PAIRED} takes the seeds of the pretrainings, and none is among the methods: say "
                        "--trials N")
    pretrainings = pretrainings_of(recipes if pretrained else {}, pretrain_values, read_seeds(args.pretrain_seeds))
    output = _output(args.output) if args.output else ROOT / "output"
    results = output / "results" if args.output else ROOT / "results"
    scale = demo or args.scale or "full"
    preflight = options.cluster == "slurm" and scale == "full" if args.preflight is None else args.preflight
    return Options(
        demo=bool(demo), tasks=tasks, methods=methods, trials=trials, scale=scale, heads=args.heads,
        checkpoints=checkpoints, photos=args.photos, imagenet=args.imagenet,
        data={option: read_folders(option, words) for option, words in given.items()},
        pretrainings=pretrainings, train_shares=read_shares(args.train_share),
        architecture=_architecture(args, methods, pretrainings), overrides=task_values,
        branch=args.branch, schedules=schedules, solvers=solvers, shared=request.shared_values(args),
        eval_every=args.eval_every, keep_predictions=args.keep_predictions, keep=args.keep,
        output=output, results=args.results.absolute() if args.results else results,
        device="cpu" if args.gpus == 0 and args.device == "auto" else args.device,
        gpus=args.gpus if options.cluster == "local" else options.gpus_per_node, jobs=args.jobs,
        dry_run=args.dry_run,
        rerun=tuple(args.rerun), include_demo=args.include_demo or bool(demo), probes=args.probes,
        preflight=preflight, cluster=options, max_jobs=args.max_jobs, said=tuple(said))


def _refuse_beside_demo(args: argparse.Namespace, demo: str, given: dict[str, list[str]]) -> None:
    if args.demo and args.tiny:
        raise UserError("--demo and --tiny are two sizes of the same: leave out one of them")
    if demo and (args.epochs or args.recipe or args.photos or args.imagenet or args.scale):
        raise UserError(f"--{demo} brings its own pictures, recipe and scale: leave out --epochs, --recipe, --photos, "
                        "--imagenet and --scale")
    if demo and any(given.values()):
        raise UserError(f"--{demo} brings its own data: leave out "
                        f"{', '.join(f'--{option}' for option in DATA_OPTIONS)}")
    if demo and args.checkpoint:
        raise UserError(f"--{demo} pretrains its own checkpoint: leave out --checkpoint or --{demo}")


def _methods(
    args: argparse.Namespace, demo: str, labels: tuple[str, ...], checkpoints: dict[str, Path]
) -> tuple[str, ...]:
    """The rows to be measured: labels of pretrainings, random methods, checkpoints."""
    if args.pretrain and (args.epochs or args.recipe):
        raise UserError("--pretrain says what is pretrained: leave out --epochs and --recipe, or say them there, as in "
                        "--pretrain clove=mini,epochs=100")
    wants_pretraining = bool(demo or args.epochs or args.recipe or args.photos or args.pretrain)
    if not wants_pretraining and not checkpoints and not args.methods:
        raise UserError("nothing to do: expected --demo, --tiny, --benchmark NAME, --epochs N, --recipe NAME, "
                        "--pretrain LABEL=RECIPE, --photos DIR or --checkpoint NAME=FILE; ./run_all.sh --help explains "
                        "them")
    if not args.methods:
        return (*((*labels, RAND.method) if wants_pretraining else ()), *checkpoints)
    controls = tuple(f"{label}{RANDOM_CONVOLUTIONS}" for label in labels)
    methods = _subset("--methods", args.methods, (*labels, *controls, *RANDOM, *checkpoints))
    for label, control in zip(labels, controls, strict=True):
        if control in methods and label not in methods:
            raise UserError(f"--methods {control} takes the batch norm of {label}: add {label}")
    if wants_pretraining and not set(labels) & set(methods):
        raise UserError(f"--methods {args.methods} leaves nothing to pretrain: add {', '.join(labels)}, or leave out "
                        "--demo, --tiny, --epochs, --recipe, --pretrain and --photos")
    for option, names in (("--checkpoint", checkpoints), ("--pretrain", labels if args.pretrain else ())):
        for name in names:
            if name not in methods:
                raise UserError(f"{option} {name} is not among --methods {args.methods}: leave it out or add it")
    return methods


def _refuse_without_effect(
    args: argparse.Namespace, tasks: tuple[str, ...], methods: tuple[str, ...], checkpoints: dict[str, Path]
) -> None:
    """Numbers that are none, and options that would change nothing."""
    if args.gpus is not None and args.gpus < 0:
        raise UserError(f"--gpus must be at least 0, found {args.gpus}")
    if not tasks and set(methods) <= set(RANDOM):
        raise UserError("--tasks none leaves nothing to do: random weights are only fine-tuned; add a pretraining or a "
                        "checkpoint")
    if args.jobs < 1:
        raise UserError(f"--jobs must be at least 1, found {args.jobs}")
    if args.jobs > 1 and args.cluster == "slurm":
        raise UserError(f"--jobs {args.jobs} is for this machine: with --cluster slurm say --max-jobs N")
    if args.probes and not set(PROBED) & set(tasks):
        raise UserError(f"--probes: no pixel labels for {', '.join(tasks)}; add {' or '.join(PROBED)} to --tasks")
    if args.probes and set(methods) <= set(RANDOM):
        raise UserError("--probes: random weights stand in every probe as a baseline; add another method")
    if args.eval_every < 0:
        raise UserError(f"--eval-every must be at least 0, found {args.eval_every}")
    if args.branch and not checkpoints:
        raise UserError(f"--branch {args.branch} changes nothing here: there is no --checkpoint")


def _architecture(
    args: argparse.Namespace, methods: tuple[str, ...], pretrainings: tuple[Pretraining, ...]
) -> str:
    """Of random methods and preflights: that of the pretrainings, or --architecture."""
    architectures = sorted({one.config.train.architecture for one in pretrainings})
    if args.architecture and pretrainings:
        raise UserError(f"--architecture {args.architecture}: the recipe says what is pretrained, and the random "
                        "methods follow it; use --set pretrain.architecture=NAME")
    if args.architecture and not set(methods) & set(RANDOM):
        raise UserError(f"--architecture {args.architecture} changes nothing here: a checkpoint has its own; add a "
                        "random method, as in --methods rand,NAME")
    if len(architectures) > 1:
        raise UserError(f"the pretrainings have architectures {', '.join(architectures)}: random methods and "
                        "preflights follow one; pretrain the others in another run")
    return architectures[0] if architectures else args.architecture or STANDARD


def _recipe(args: argparse.Namespace, said: list[str]) -> str:
    if args.recipe:
        if args.epochs is not None:
            said.append(f"recipe {args.recipe} with {args.epochs} epochs")
        return args.recipe
    if args.epochs is None:
        if args.photos is not None:
            said.append("recipe photos (name another one with --recipe)")
            return "photos"
        return "imagenet_200ep"
    named = f"imagenet_{args.epochs}ep"
    if named in recipe_names():
        return named
    said.append(f"there is no recipe with {args.epochs} epochs: imagenet_200ep with its epochs replaced")
    return "imagenet_200ep"


def _output(path: Path) -> Path:
    """The absolute path; what would only show when the pretraining is done is told now."""
    output = path.absolute()
    if not str(output).isprintable():
        raise UserError(f"--output {str(path)!r}: expected a name that can be printed, choose another one")
    # detectron2 takes every path for an address, and drops its query.
    if (read := urlparse(f"{output}/x")._replace(query="").geturl()) != f"{output}/x":
        raise UserError(f"--output {path}: detectron2, which takes paths for addresses, would look for {read}; choose "
                        "one without question marks, or semicolons before a #")
    above = next(folder for folder in (output, *output.parents) if folder.exists())
    if not above.is_dir():
        raise UserError(f"--output {path}: expected a folder or a new name in one, found that {above} is a file")
    return output


def _checkpoints(given: list[str], labels: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for word in given:
        name, equals, file = word.partition("=")
        if not equals or not name.strip() or not file:
            raise UserError(f"--checkpoint {word}: expected NAME=FILE, such as --checkpoint mine=ckpt_epoch_200.pth")
        if name in RANDOM or name in labels:
            raise UserError(f"--checkpoint {word}: the name {name} is taken by the suite's own method, choose another")
        if not name.isprintable() or name != name.strip():
            raise UserError(f"--checkpoint {word!r}: expected a name without line breaks, or spaces around it")
        if name in RANDOM_ROWS:
            raise UserError(f"--checkpoint {word}: {name!r} is the row of random weights, choose another name")
        same = next((other for other in found if slug(other) == slug(name)), None)
        if same is not None:
            raise UserError(f"--checkpoint {name} is given twice" if same == name else
                            f"--checkpoint {name}: its stages would be called as those of {same}, {slug(name)}; choose "
                            "another name")
        if not Path(file).is_file():
            raise UserError(f"--checkpoint {name}: no such file {file}")
        found[name] = Path(file).absolute()
    return found


def _subset(option: str, words: str, known: tuple[str, ...]) -> tuple[str, ...]:
    chosen = [word.strip() for word in words.split(",") if word.strip()]
    for word in chosen:
        if word not in known:
            near = difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]
            raise UserError(f"{option} {word}: expected some of {', '.join(known)}; the nearest is {near}")
    if not chosen:
        raise UserError(f"{option} is empty: expected some of {', '.join(known)}")
    return tuple(name for name in known if name in chosen)


def _by_task(option: str, words: str | None, tasks: tuple[str, ...]) -> dict[str, str]:
    """{task: name}: one name for all tasks, or TASK=NAME for some of them."""
    if words is None:
        return {}
    if "=" not in words:
        return dict.fromkeys(tasks, words)
    found = {}
    for word in words.split(","):
        task, equals, name = word.strip().partition("=")
        if task not in tasks or not equals or not name:
            raise UserError(f"{option} {words}: expected NAME, or TASK=NAME,... with tasks of {', '.join(tasks)}, "
                            f"found {word.strip()!r}")
        found[task] = name
    return found


def _assignments(words: list[str], tasks: tuple[str, ...]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    pretrain: dict[str, str] = {}
    per_task: dict[str, dict[str, str]] = {task: {} for task in tasks}
    for word in words:
        place, dot, rest = word.partition(".")
        key, equals, value = rest.partition("=")
        if not dot or not equals or not key:
            raise UserError(f"--set {word}: expected pretrain.KEY=VALUE, TASK.KEY=VALUE or transfer.KEY=VALUE")
        if place == "pretrain":
            pretrain[key] = value
        elif place == "transfer":
            for task in tasks:
                per_task[task][key] = value
        elif place in per_task:
            per_task[place][key] = value
        else:
            known = ("pretrain", "transfer", *tasks)
            near = difflib.get_close_matches(place, known, n=1, cutoff=0.0)[0]
            raise UserError(f"--set {word}: {place} is none of {', '.join(known)}; the nearest is {near}")
    return pretrain, per_task
