"""The command line of the suite: what a user may say, and the one meaning of it."""

import argparse
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

from benchmarks import cluster, cluster_file, keep
from benchmarks.cluster import ClusterOptions
from benchmarks.evaluations import read_shares
from benchmarks.inputs import DATA_OPTIONS, POSTER_TASKS, DataFolder, read_folders, slug
from benchmarks.pretrainings import Pretraining, Recipe, pretrainings_of, read_labels, read_seeds, refuse_labels
from benchmarks.results import RANDOM as RANDOM_ROWS
from pretrain.errors import UserError
from pretrain.recipe_file import recipe_names
from transfer import request
from transfer.tasks import TASKS

# Methods that start from random weights: their word of `python -m transfer finetune --weights`.
RANDOM = {"rand": "random", "rand_msra": "random-msra", "rand_zero_gamma": "random-zero-gamma"}
CLOVE = "clove"  # label of the pretraining where none is named
HEADS = tuple(dict.fromkeys(heads for task in TASKS.values() if len(task.heads) > 1 for heads in task.heads))
SCHEDULES = tuple(dict.fromkeys(name for task in TASKS.values() for name in task.schedules))
PROBED = tuple(name for name, task in TASKS.items() if task.pixel_labels is not None)
SCALES = ("full", "mini", "demo", "tiny")
ARCHITECTURES = ("resnet18", "resnet34", "resnet50")
ROOT = Path(__file__).resolve().parent.parent
EPILOG = """\
examples:
  ./run_all.sh --demo
  ./run_all.sh --epochs 200 --imagenet IMAGENET --coco COCO --cityscapes CITYSCAPES
  ./run_all.sh --checkpoint mine=FILE --tasks coco,keypoints --coco COCO
  ./run_all.sh --photos PHOTOS --recipe mini --coco DIR --tasks coco --scale mini
  ./run_all.sh --epochs 200 ... --cluster slurm --partition P --nodes 2 --gpus-per-node 8 --time 24:00:00 --trials 5
  ./run_all.sh --pretrain clove=mini --pretrain no_attention=mini,attention=none --pretrain-seeds 3 --photos PHOTOS \
               --coco A --coco B --train-share 0.1,1 --tasks coco
The same command again resumes a run where it was; what is done is not done again.
"""


@dataclass(frozen=True)
class Options:
    """What is asked for, resolved: `pretrainings` is empty when nothing is pretrained."""

    demo: bool  # on generated pictures: --demo or --tiny
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    trials: int
    scale: str
    heads: str | None
    checkpoints: dict[str, Path]
    photos: Path | None
    imagenet: Path | None
    data: dict[str, tuple[DataFolder, ...]]  # by option
    pretrainings: tuple[Pretraining, ...] = ()
    train_shares: tuple[float, ...] = (1.0,)  # of a dataset's training images
    architecture: str = "resnet50"  # of random methods and preflights: a checkpoint has its own
    overrides: dict[str, dict[str, str]] = field(default_factory=dict)  # per task
    branch: str | None = None  # of checkpoints that hold two networks
    schedules: dict[str, str] = field(default_factory=dict)  # per task, where it is not the published one
    solvers: dict[str, str] = field(default_factory=dict)  # per task, where it is not the common one
    shared: dict[str, object] = field(default_factory=dict)  # options of transfer's own, for all tasks
    eval_every: int = 0
    keep_predictions: bool = False
    keep: str = keep.LAST  # which fine-tuned models stay
    output: Path = ROOT / "output"
    results: Path = ROOT / "results"
    device: str = "auto"
    gpus: int | None = None
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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_all.sh",
        usage="./run_all.sh (--demo | --tiny | --epochs N | --recipe NAME | --pretrain LABEL=RECIPE | "
              "--checkpoint NAME=FILE) [options]",
        description="Pretrain CLoVE, convert, fine-tune and evaluate with detectron2, print the paper's tables.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    what = parser.add_argument_group("what to run")
    what.add_argument("--demo", action="store_true", help="everything, small, on generated pictures, no GPU needed")
    what.add_argument("--tiny", action="store_true",
                      help="the same with two steps, two iterations and two images: whether a machine or a cluster can "
                           "run everything, in minutes")
    what.add_argument("--epochs", type=int, metavar="N",
                      help="the recipe with N epochs; if there is none, imagenet_200ep with N epochs")
    what.add_argument("--recipe", metavar="NAME|FILE",
                      help=f"pretraining recipe: {', '.join(recipe_names())}, or a file")
    what.add_argument("--pretrain", action="append", default=[], metavar="LABEL=RECIPE[,KEY=VALUE...]",
                      help="pretrain this recipe with these values, as the row LABEL; may be repeated, for ablations "
                           "and other objectives beside each other (instead of --epochs and --recipe)")
    what.add_argument("--pretrain-seeds", metavar="N|A,B,...",
                      help="pretrainings of each, with the seeds from the recipe's on, or with these (default: 1)")
    what.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FILE",
                      help="fine-tune this checkpoint, no pretraining; NAME is its row; may be repeated")
    what.add_argument("--tasks", default=",".join(POSTER_TASKS), metavar="A,B",
                      help=f"of {', '.join(TASKS)} (default: {','.join(POSTER_TASKS)}, the poster's)")
    what.add_argument("--methods", metavar="A,B",
                      help="clove or the labels of --pretrain (pretrained here), rand (random init), rand_msra (the "
                           "pixels of the literature's random rows), rand_zero_gamma (last batch-norm gamma of each "
                           "block 0), names of checkpoints; default: what is pretrained, rand and the checkpoints, or "
                           "the checkpoints alone")
    what.add_argument("--branch", choices=("student", "teacher"),
                      help="of checkpoints that hold both (default: the one their authors transfer)")
    what.add_argument("--architecture", choices=ARCHITECTURES,
                      help="of the random methods beside checkpoints (default: resnet50); a recipe says its own")
    what.add_argument("--trials", type=int, default=1, metavar="N",
                      help="fine-tunings of each method and task, each with another seed (default 1)")
    what.add_argument("--probes", action="store_true",
                      help=f"probe each frozen backbone too, on {' and '.join(PROBED)}: minutes, a table of its own")
    what.add_argument("--scale", choices=SCALES, help="of the fine-tuning: full is the published protocol (default)")
    what.add_argument("--heads", choices=HEADS, help="head family of the detectors (default: the task's)")
    what.add_argument("--schedule", metavar="NAME|TASK=NAME,...",
                      help=f"{', '.join(SCHEDULES)}, and for one GPU NAME_1gpu (accumulates) or NAME_1gpu_linear, for "
                           "all tasks or for some, TASK=NAME,... (default: each task's published one)")
    what.add_argument("--solver", metavar="NAME|TASK=NAME,...",
                      help=f"{_solvers()} (default: the solver that all methods share)")
    what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
                      help="override a value: pretrain.KEY=V (all pretrainings), TASK.SOLVER.MAX_ITER=V (one task), "
                           "transfer.KEY=V (all tasks); may be repeated")
    data = parser.add_argument_group("data")
    data.add_argument("--imagenet", type=Path, metavar="DIR", help="ImageNet, or IMAGENET_DIR")
    data.add_argument("--photos", type=Path, metavar="DIR", help="any folder of images, instead of ImageNet")
    for option in DATA_OPTIONS:
        takers = [name for name, task in TASKS.items() if option in task.folders]
        try:
            data.add_argument(f"--{option}", action="append", default=[], metavar="[LABEL=]DIR", dest=f"data_{option}",
                              help=f"data of {', '.join(takers)}, or DETECTRON2_DATASETS; several stand beside each "
                                   "other, called by their folders or labels"
                                   + "; annotations that lie otherwise: [LABEL=]TRAIN.json,VAL.json,IMAGES"
                                   * any(TASKS[name].named_files for name in takers))
        except argparse.ArgumentError:
            raise UserError(f"task {takers[0]}: its data cannot be named by --{option}, which is an option already; "
                            "choose another name among its folders") from None
    data.add_argument("--train-share", default="1", metavar="A,B",
                      help="shares of the training images, each a fixed subset, beside each other (default: 1, all)")
    how = parser.add_argument_group("how")
    how.add_argument("--output", type=Path, metavar="DIR",
                     help="folder for everything (default: work in output/, results in results/)")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    how.add_argument("--gpus", type=int, metavar="N", help="GPUs to use (default: all that are visible)")
    request.add_shared_arguments(how)
    how.add_argument("--eval-every", type=int, default=0, metavar="N",
                     help="early figures of the fine-tunings every N iterations; they change nothing")
    how.add_argument("--keep-predictions", action="store_true",
                     help="keep the predictions of the fine-tunings that are still to run")
    how.add_argument("--keep", choices=keep.KINDS, default=keep.LAST,
                     help="fine-tuned models that stay when their figures are known: none, last (each one's; default), "
                          "or best (of the trials of a method and task)")
    how.add_argument("--preflight", action=argparse.BooleanOptionalAction,
                     help="try each task first, on the machine that is meant: two iterations, a save, two images "
                          "evaluated (default: with --cluster slurm at full scale)")
    how.add_argument("--dry-run", action="store_true",
                     help="print the plan (stages, needs, what is done, cost) and run nothing")
    how.add_argument("--rerun", action="append", default=[], metavar="STAGE",
                     help="do this stage again (and what follows if its output changes); may be repeated")
    how.add_argument("--include-demo", action="store_true", help="show demo results in the printed tables too")
    jobs = parser.add_argument_group("cluster", "every stage as a Slurm job; python -m benchmarks status, cancel, "
                                                "retry and logs then show and steer them")
    cluster.add_options(jobs)
    jobs.add_argument("--max-jobs", type=int, metavar="N", help="jobs at once (default: as many as Slurm starts)")
    jobs.add_argument("--local-disk", metavar="DIR",
                      help="copy each dataset to this folder of the node first, if it fits, such as /scratch or "
                           "'$TMPDIR'; it stays there for the jobs that come after")
    jobs.add_argument("--cluster-file", type=Path, metavar="FILE",
                      help="these options from a file; the command line wins (default: cluster.yaml, if it is here; "
                           "benchmarks/cluster.example.yaml is one)")
    return parser


def parse(arguments: list[str] | None = None) -> Options:
    """Arguments to options; raises `UserError` for what does not fit together."""
    said: list[str] = []
    args = cluster_file.parse(build_parser(), arguments, said)
    options = cluster_file.options_of(args)
    demo = "demo" if args.demo else "tiny" if args.tiny else ""
    given = {option: getattr(args, f"data_{option}") for option in DATA_OPTIONS}
    _refuse_beside_demo(args, demo, given)
    recipes = read_labels(args.pretrain)
    labels = tuple(recipes) or (CLOVE,)
    checkpoints = _checkpoints(args.checkpoint, labels)
    refuse_labels(recipes, (*RANDOM, *RANDOM_ROWS, *checkpoints))
    tasks = _subset("--tasks", args.tasks, tuple(TASKS))
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
    pretrainings = pretrainings_of(recipes if pretrained else {}, pretrain_values, read_seeds(args.pretrain_seeds))
    output = _output(args.output) if args.output else ROOT / "output"
    scale = demo or args.scale or "full"
    preflight = options.cluster == "slurm" and scale == "full" if args.preflight is None else args.preflight
    return Options(
        demo=bool(demo), tasks=tasks, methods=methods, trials=args.trials, scale=scale, heads=args.heads,
        checkpoints=checkpoints, photos=args.photos, imagenet=args.imagenet,
        data={option: read_folders(option, words) for option, words in given.items()},
        pretrainings=pretrainings, train_shares=read_shares(args.train_share),
        architecture=_architecture(args, methods, pretrainings), overrides=task_values,
        branch=args.branch, schedules=schedules, solvers=solvers, shared=request.shared_values(args),
        eval_every=args.eval_every, keep_predictions=args.keep_predictions, keep=args.keep,
        output=output, results=output / "results" if args.output else ROOT / "results",
        device="cpu" if args.gpus == 0 and args.device == "auto" else args.device,
        gpus=args.gpus if options.cluster == "local" else options.gpus_per_node, dry_run=args.dry_run,
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
        raise UserError("nothing to do: expected --demo, --tiny, --epochs N, --recipe NAME, --pretrain "
                        "LABEL=RECIPE, --photos DIR or --checkpoint NAME=FILE; ./run_all.sh --help explains them")
    if not args.methods:
        return (*((*labels, "rand") if wants_pretraining else ()), *checkpoints)
    methods = _subset("--methods", args.methods, (*labels, *RANDOM, *checkpoints))
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
    if args.trials < 1:
        raise UserError(f"--trials must be at least 1, found {args.trials}")
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
    return architectures[0] if architectures else args.architecture or "resnet50"


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


def _solvers() -> str:
    """"vicreg for coco, voc": each solver with the tasks that know it."""
    takers: dict[str, list[str]] = {}
    for task in TASKS.values():
        for name in task.solvers:
            takers.setdefault(name, []).append(task.name)
    return "; ".join(f"{name} for {', '.join(names)}" for name, names in takers.items())


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
