"""What is asked for: the options of the command line (benchmarks/options/arguments.py), and what they mean together."""

import argparse
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

from benchmarks.options import cluster_file, grid_file, kept_models
from benchmarks.options.arguments import build_parser
from benchmarks.options.checks import Check, at_least, check_name, nearest
from benchmarks.options.cluster import ClusterOptions, read_options
from benchmarks.options.evaluations import PAIRED, read_shares, read_trials
from benchmarks.options.inputs import DATA_OPTIONS, PROBED, DataFolder, read_folders
from benchmarks.options.pretrainings import Pretraining, Recipe, pretrainings_of, read_labels, read_seeds
from benchmarks.records.results import PROVES_NOTHING
from benchmarks.records.results import RANDOM as RANDOM_ROWS
from pretrain import PLACE
from pretrain.common.architectures import STANDARD
from pretrain.common.errors import refuse
from pretrain.options.recipe_file import recipe_names
from transfer.settings import request
from transfer.settings.random_starts import RAND, RANDOM_STARTS
from transfer.tasks import TASKS

# Methods that start from random weights: how `clove finetune --weights` names them.
RANDOM = {start.method: start.weights for start in RANDOM_STARTS}
# After a pretraining's label: a control with its batch norm and random convolutions.
RANDOM_CONVOLUTIONS = ".random_convolutions"
CLOVE = "clove"  # label of the pretraining where none is named
OWN_TO_DEMO = ("epochs", "recipe", "photos", "imagenet", "scale", "checkpoint")  # and all data


@dataclass(frozen=True)
class Options:
    """What is asked for, resolved: `pretrainings` is empty when nothing is pretrained."""

    demo: bool  # on generated images: --demo or --tiny
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
    same_images: bool = False  # this and the next: how data is read, see `Where`
    crowds_as_objects: bool = False
    architecture: str = STANDARD  # of random methods and preflights: a checkpoint has its own
    overrides: dict[str, dict[str, str]] = field(default_factory=dict)  # per task
    branch: str | None = None  # of checkpoints that hold two networks
    schedules: dict[str, str] = field(default_factory=dict)  # per task, where it is not the published one
    solvers: dict[str, str] = field(default_factory=dict)  # per task, where it is not the common one
    shared: dict[str, object] = field(default_factory=dict)  # options of transfer's own, for all tasks
    eval_every: int = 0
    keep_predictions: bool = False
    keep: str = kept_models.LAST  # which fine-tuned models stay
    output: Path = PLACE / "output"
    results: Path = PLACE / "results"
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
        overrides = self.overrides.get(task, {})
        return request.Protocol(
            task=task, scale=self.scale, heads=self.heads, schedule=self.schedules.get(task),
            solver=self.solvers.get(task), overrides=tuple(map("=".join, overrides.items())), **self.shared)


def parse(arguments: list[str]) -> Options:
    """Arguments to options; raises `UserError` for what does not fit together."""
    said: list[str] = []
    parser = build_parser()
    args = cluster_file.parse(parser, grid_file.expand(parser, arguments, said), said)
    at_least(args, {"gpus": 0, "jobs": 1, "eval_every": 0})
    cluster = read_options(args)
    data = {option: read_folders(option, getattr(args, f"data_{option}")) for option in DATA_OPTIONS}
    demo = _demo(args, data)
    tasks = () if args.tasks == "none" else _subset("--tasks", args.tasks, TASKS)
    pretrain_values, task_values = _assignments(args.assignments, tasks)

    recipes = read_labels(args.pretrain)
    labels = tuple(recipes) or (CLOVE,)
    checkpoints = _checkpoints(args.checkpoint, labels)
    _check_labels(recipes, checkpoints)
    methods = _methods(args, labels, checkpoints)
    if not set(labels) & set(methods):
        recipes = {}
    elif not recipes:
        recipes[CLOVE] = Recipe(demo or _recipe(args, said), {})
        if args.epochs is not None:
            recipes[CLOVE].values["epochs"] = str(args.epochs)
    pretrainings = pretrainings_of(recipes, pretrain_values, read_seeds(args.pretrain_seeds or "1"))

    output, results = _places(args)
    scale = demo or args.scale or "full"
    preflight = args.preflight
    if preflight is None:
        preflight = cluster.cluster == "slurm" and scale == "full"
    architecture = args.architecture or STANDARD
    if pretrainings:
        architecture = pretrainings[0].config.train.architecture
    options = Options(
        demo=bool(demo), tasks=tasks, methods=methods, trials=read_trials(args.trials), scale=scale, heads=args.heads,
        checkpoints=checkpoints, photos=args.photos, imagenet=args.imagenet,
        data=data, pretrainings=pretrainings, train_shares=read_shares(args.train_share), same_images=args.same_images,
        crowds_as_objects=args.crowds_as_objects, architecture=architecture, overrides=task_values,
        branch=args.branch, schedules=_by_task("--schedule", args.schedule, tasks),
        solvers=_by_task("--solver", args.solver, tasks), shared=request.shared_values(args),
        eval_every=args.eval_every, keep_predictions=args.keep_predictions, keep=args.keep, output=output,
        results=results, device="cpu" if args.gpus == 0 and args.device == "auto" else args.device,
        gpus=args.gpus if cluster.cluster == "local" else cluster.gpus_per_node, jobs=args.jobs, dry_run=args.dry_run,
        rerun=tuple(args.rerun), probes=args.probes,
        # A run shows what it measured, though tables of the results leave it out.
        include_demo=args.include_demo or bool(demo) or args.scale in PROVES_NOTHING,
        preflight=preflight, cluster=cluster, max_jobs=args.max_jobs, said=tuple(said))
    refuse(*_wrong_methods(args, options, labels), *_without_effect(args, options, labels))
    return options


def _wrong_methods(args: argparse.Namespace, options: Options, labels: tuple[str, ...]) -> list[Check]:
    """What --pretrain, --checkpoint and --methods may not say together."""
    methods = options.methods
    random_alone = set(methods) <= set(RANDOM)
    architectures = sorted({one.config.train.architecture for one in options.pretrainings})
    checks: list[Check] = [
        (not methods, "nothing to do: expected --demo, --tiny, --benchmark NAME, --epochs N, "
                      "--recipe NAME, --pretrain LABEL=RECIPE, --photos DIR or --checkpoint "
                      "NAME=FILE; ./run_all.sh --help explains them"),
        (args.pretrain and (args.epochs or args.recipe),
         "--pretrain says what is pretrained: leave out --epochs and --recipe, or say them there, "
         "as in --pretrain clove=mini,epochs=100"),
        (not options.tasks and random_alone,
         "--tasks none leaves nothing to do: random weights are only fine-tuned; add a pretraining "
         "or a checkpoint"),
        (len(architectures) > 1,
         f"the pretrainings have architectures {', '.join(architectures)}: random methods and "
         "preflights follow one; pretrain the others in another run"),
        (args.probes and random_alone,
         "--probes: random weights stand in every probe as a baseline; add another method"),
    ]
    for label, control in controls_of(labels).items():
        checks.append((control in methods and label not in methods,
                       f"--methods {control} takes the batch norm of {label}: add {label}"))
    checks.append((_pretrains(args) and not options.pretrainings,
                   f"--methods {args.methods} leaves nothing to pretrain: add {', '.join(labels)}, "
                   "or leave out --demo, --tiny, --epochs, --recipe, --pretrain and --photos"))
    named = dict.fromkeys(options.checkpoints, "--checkpoint")
    if args.pretrain:
        named |= dict.fromkeys(labels, "--pretrain")
    for name, option in named.items():
        checks.append((name not in methods,
                       f"{option} {name} is not among --methods {args.methods}: leave it out or "
                       "add it"))
    return checks


def controls_of(labels: Iterable[str]) -> dict[str, str]:
    """The method that is the control of each pretraining, by label."""
    return {label: f"{label}{RANDOM_CONVOLUTIONS}" for label in labels}


def _without_effect(args: argparse.Namespace, options: Options, labels: tuple[str, ...]) -> list[Check]:
    """Options that would change nothing."""
    slurm = options.cluster.cluster == "slurm"
    architecture = f"--architecture {args.architecture}"
    pretrained = [f"--set {text}" for text in args.assignments if text.startswith("pretrain.")]
    if args.pretrain_seeds:
        pretrained.append("--pretrain-seeds")
    return [
        (pretrained and not options.pretrainings,
         f"{', '.join(pretrained)} changes nothing here: {', '.join(labels)} is not among the "
         "methods"),
        (options.trials == PAIRED and not options.pretrainings,
         f"--trials {PAIRED} takes the seeds of the pretrainings, and none is among the methods: "
         "say --trials N"),
        (args.architecture and options.pretrainings,
         f"{architecture}: the recipe says what is pretrained, and the random methods follow it; "
         "use --set pretrain.architecture=NAME"),
        (args.architecture and not set(options.methods) & set(RANDOM),
         f"{architecture} changes nothing here: a checkpoint has its own; add a random method, as "
         "in --methods rand,NAME"),
        (args.branch and not options.checkpoints,
         f"--branch {args.branch} changes nothing here: there is no --checkpoint"),
        (args.probes and not set(PROBED) & set(options.tasks),
         f"--probes: no pixel labels for {', '.join(options.tasks)}; add {' or '.join(PROBED)} to "
         "--tasks"),
        (args.crowds_as_objects and not any(TASKS[name].named_files for name in options.tasks),
         "--crowds-as-objects changes nothing here: no data of the tasks is in COCO's format; "
         "leave it out"),
        (slurm and args.gpus is not None,
         f"--gpus {args.gpus} is for this machine: with --cluster slurm say --gpus-per-node N"),
        (slurm and args.jobs > 1, f"--jobs {args.jobs} is for this machine: with --cluster slurm "
                                  "say --max-jobs N"),
    ]


def _demo(args: argparse.Namespace, data: dict[str, tuple[DataFolder, ...]]) -> str:
    """demo, tiny, or "" for a run on real data."""
    demo = args.demo or args.tiny or ""
    given = []
    for option in (*OWN_TO_DEMO, *data):
        if data.get(option) or getattr(args, option, None):
            given.append(option)
    refuse(
        (args.demo and args.tiny, "--demo and --tiny are two sizes of the same: leave out one of "
                                  "them"),
        (demo and given, f"--{demo} brings its own images, recipe, scale, data and checkpoint: "
                         f"leave out --{', --'.join(given)}"),
    )
    return demo


def _pretrains(args: argparse.Namespace) -> bool:
    return bool(args.demo or args.tiny or args.epochs or args.recipe or args.photos or args.pretrain)


def _methods(args: argparse.Namespace, labels: tuple[str, ...], checkpoints: dict[str, Path]) -> tuple[str, ...]:
    """The rows to be measured: labels of pretrainings, random methods, checkpoints."""
    if args.methods:
        known = (*labels, *controls_of(labels).values(), *RANDOM, *checkpoints)
        return _subset("--methods", args.methods, known)
    if _pretrains(args):
        return (*labels, RAND.method, *checkpoints)
    return tuple(checkpoints)


def _recipe(args: argparse.Namespace, said: list[str]) -> str:
    """The recipe where --pretrain names none; what was chosen for the user goes into `said`."""
    if args.epochs is None:
        if args.recipe or args.photos is None:
            return args.recipe or "imagenet_200ep"
        said.append("recipe photos (name another one with --recipe)")
        return "photos"
    named = f"imagenet_{args.epochs}ep"
    if args.recipe:
        said.append(f"recipe {args.recipe} with {args.epochs} epochs")
        return args.recipe
    if named in recipe_names():
        return named
    said.append(f"there is no recipe with {args.epochs} epochs: imagenet_200ep with its epochs "
                "replaced")
    return "imagenet_200ep"


def _places(args: argparse.Namespace) -> tuple[Path, Path]:
    """The folders of the work and of the results; what would only show after the pretraining is reported now."""
    output, results = PLACE / "output", PLACE / "results"
    if args.output is not None:
        output, results = args.output, args.output / "results"
    output, results = output.absolute(), (args.results or results).absolute()
    read = urlparse(f"{output}/x")._replace(query="").geturl()
    above = next(parent for parent in (output, *output.parents) if parent.exists())
    refuse(
        (not str(output).isprintable(),
         f"--output {str(args.output)!r}: expected a name that can be printed, choose another one"),
        # detectron2 takes every path for an address, and drops its query.
        (read != f"{output}/x",
         f"--output {args.output}: detectron2, which takes paths for addresses, would look for "
         f"{read}; choose one without question marks, or semicolons before a #"),
        (not above.is_dir(),
         f"--output {args.output}: expected a folder or a new name in one, found that {above} is a "
         "file"),
    )
    return output, results


def _checkpoints(given: list[str], labels: tuple[str, ...]) -> dict[str, Path]:
    """{name: file} of the values of --checkpoint."""
    found: dict[str, Path] = {}
    for text in given:
        name, _, file = text.partition("=")
        check_name("--checkpoint NAME=FILE", name, (*RANDOM, *RANDOM_ROWS, *found))
        refuse(
            (not name or not file, f"--checkpoint {text}: expected NAME=FILE, such as --checkpoint "
                                   "mine=ckpt_epoch_200.pth"),
            (name in labels, f"--checkpoint {name}: the name {name} is taken by a pretraining; "
                             "choose another one"),
            (not Path(file).is_file(), f"--checkpoint {name}: no such file {file}"),
        )
        found[name] = Path(file).absolute()
    return found


def _check_labels(recipes: Iterable[str], checkpoints: Iterable[str]) -> None:
    """Labels of --pretrain, which no other row or its stages may have."""
    taken = [*RANDOM, *RANDOM_ROWS, *checkpoints, *controls_of(recipes).values()]
    for label in recipes:
        check_name("--pretrain LABEL=RECIPE", label, taken)
        taken.append(label)


def _subset(option: str, text: str, known: Collection[str]) -> tuple[str, ...]:
    """The names of a list such as "a,b", in the order of the `known` ones."""
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in known]
    first = " ".join(unknown[:1])
    refuse(
        (not chosen, f"{option} is empty: expected some of {', '.join(known)}"),
        (unknown, f"{option} {first}: expected some of {', '.join(known)}; the nearest is "
                  f"{nearest(first, known)}"),
    )
    return tuple(name for name in known if name in chosen)


def _by_task(option: str, text: str | None, tasks: tuple[str, ...]) -> dict[str, str]:
    """{task: name}: one name for all tasks, or TASK=NAME for some of them."""
    if text is None:
        return {}
    if "=" not in text:
        return dict.fromkeys(tasks, text)
    found = {}
    for part in text.split(","):
        task, _, name = part.strip().partition("=")
        refuse((task not in tasks or not name,
                f"{option} {text}: expected NAME, or TASK=NAME,... with tasks of "
                f"{', '.join(tasks)}, found {part.strip()!r}"))
        found[task] = name
    return found


def _assignments(texts: list[str], tasks: tuple[str, ...]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """What --set says: values of all pretrainings, and of each task."""
    values: dict[str, dict[str, str]] = {place: {} for place in ("pretrain", *tasks)}
    known = ("pretrain", "transfer", *tasks)
    for text in texts:
        place, _, rest = text.partition(".")
        key, equals, value = rest.partition("=")
        refuse(
            (not equals or not key,
             f"--set {text}: expected pretrain.KEY=VALUE, TASK.KEY=VALUE or transfer.KEY=VALUE"),
            (place not in known,
             f"--set {text}: {place} is none of {', '.join(known)}; the nearest is "
             f"{nearest(place, known)}"),
        )
        for one in tasks if place == "transfer" else (place,):
            values[one][key] = value
    return values.pop("pretrain"), values
