"""The command line of the suite: what a user may say, and the one meaning of it."""

import argparse
import difflib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlparse

from benchmarks import cluster, cluster_file, keep
from benchmarks.cluster import ClusterOptions
from benchmarks.inputs import DATA_OPTIONS, POSTER_TASKS, TASKS
from benchmarks.results import RANDOM as RANDOM_ROWS
from pretrain.config import Config, load_config
from pretrain.errors import UserError
from pretrain.recipe_file import recipe_names

# Methods that start from random weights: their word of `python -m transfer finetune --weights`.
RANDOM = {"rand": "random", "rand_msra": "random-msra", "rand_zero_gamma": "random-zero-gamma"}
OWN = ("clove", *RANDOM)
DATA = tuple(dict.fromkeys(option for options in DATA_OPTIONS.values() for option in options))
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
Started again with the same words, a run goes on where it was; what is done is not done again.
"""


@dataclass(frozen=True)
class Options:
    """What is asked for, resolved: `pretrain` is None when nothing is pretrained."""

    demo: bool  # on generated pictures: --demo or --tiny
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    trials: int
    scale: str
    heads: str | None
    checkpoints: dict[str, Path]
    photos: Path | None
    imagenet: Path | None
    data: dict[str, Path | None]
    recipe: str
    pretrain: Config | None
    architecture: str = "resnet50"  # of random methods and preflights: a checkpoint has its own
    overrides: dict[str, dict[str, str]] = field(default_factory=dict)  # per task
    branch: str | None = None  # of checkpoints that hold two networks
    schedules: dict[str, str] = field(default_factory=dict)  # per task, where it is not the published one
    solvers: dict[str, str] = field(default_factory=dict)  # per task, where it is not the common one
    fit: str | None = None  # how a batch fits the GPUs, in the words of transfer/fit.py
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


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_all.sh",
        usage="./run_all.sh (--demo | --tiny | --epochs N | --recipe NAME | --checkpoint NAME=FILE) [options]",
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
    what.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FILE",
                      help="fine-tune this checkpoint, no pretraining; NAME is its row; may be repeated")
    what.add_argument("--tasks", default=",".join(POSTER_TASKS), metavar="A,B",
                      help=f"of {', '.join(TASKS)} (default: {','.join(POSTER_TASKS)}, the poster's)")
    what.add_argument("--methods", metavar="A,B",
                      help="clove (pretrained here), rand (random init), rand_msra (the pixels of the literature's "
                           "random rows), rand_zero_gamma (last batch-norm gamma of each block 0), names of "
                           "checkpoints; default: clove,rand, or the checkpoints alone")
    what.add_argument("--branch", choices=("student", "teacher"),
                      help="of checkpoints that hold both (default: the one their authors transfer)")
    what.add_argument("--architecture", choices=ARCHITECTURES,
                      help="of the random methods beside checkpoints (default: resnet50); a recipe says its own")
    what.add_argument("--trials", type=int, default=1, metavar="N",
                      help="fine-tunings of each method and task, each with another seed (default 1)")
    what.add_argument("--probes", action="store_true",
                      help="probe each frozen backbone too, on coco and cityscapes: minutes, a table of its own")
    what.add_argument("--scale", choices=SCALES, help="of the fine-tuning: full is the published protocol (default)")
    what.add_argument("--heads", choices=("4conv1fc", "2fc"), help="head family of the detectors (default: the task's)")
    what.add_argument("--schedule", metavar="NAME|TASK=NAME,...",
                      help="1x, 2x, 24k, and for one GPU 1x_1gpu (accumulates) or 1x_1gpu_linear, for all tasks or for "
                           "some: coco=2x,keypoints=1x (default: each task's published one)")
    what.add_argument("--solver", metavar="NAME|TASK=NAME,...",
                      help="vicreg for the VICReg family on coco and voc (default: the solver that all methods share)")
    what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
                      help="override a recipe value: pretrain.KEY=V, coco.SOLVER.MAX_ITER=V (one task), "
                           "transfer.KEY=V (all tasks); may be repeated")
    data = parser.add_argument_group("data")
    data.add_argument("--imagenet", type=Path, metavar="DIR", help="ImageNet, or IMAGENET_DIR")
    data.add_argument("--photos", type=Path, metavar="DIR", help="any folder of images, instead of ImageNet")
    layouts = {"coco": "COCO, for coco-c4 too", "keypoints": "COCO keypoints, default: --coco",
               "cityscapes": "Cityscapes", "voc": "Pascal VOC: VOC2007/ and VOC2012/", "lvis": "LVIS v1"}
    for option, layout in layouts.items():
        data.add_argument(f"--{option}", type=Path, metavar="DIR", help=f"{layout}; or DETECTRON2_DATASETS")
    how = parser.add_argument_group("how")
    how.add_argument("--output", type=Path, metavar="DIR",
                     help="folder for everything (default: work in output/, results in results/)")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    how.add_argument("--gpus", type=int, metavar="N", help="GPUs to use (default: all that are visible)")
    how.add_argument("--fit", metavar="KIND=N",
                     help="N images at once in the fine-tuning, over all GPUs: accumulate=N keeps batch and schedule, "
                          "linear=N makes the batch smaller and the schedule longer (default: the whole batch)")
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
    if args.demo and args.tiny:
        raise UserError("--demo and --tiny are two sizes of the same: leave out one of them")
    demo = "demo" if args.demo else "tiny" if args.tiny else ""
    if demo and (args.epochs or args.recipe or args.photos or args.imagenet or args.scale):
        raise UserError(f"--{demo} brings its own pictures, recipe and scale: leave out --epochs, --recipe, --photos, "
                        "--imagenet and --scale")
    if demo and any(getattr(args, option) for option in DATA):
        raise UserError(f"--{demo} brings its own data: leave out {', '.join(f'--{option}' for option in DATA)}")
    if demo and args.checkpoint:
        raise UserError(f"--{demo} pretrains its own checkpoint: leave out --checkpoint or --{demo}")
    checkpoints = _checkpoints(args.checkpoint)
    tasks = _subset("--tasks", args.tasks, TASKS)
    wants_pretraining = bool(demo or args.epochs or args.recipe or args.photos)
    if not wants_pretraining and not checkpoints and not args.methods:
        raise UserError("nothing to do: expected --demo, --tiny, --epochs N, --recipe NAME, --photos DIR or "
                        "--checkpoint NAME=FILE; ./run_all.sh --help explains them")
    default = (["clove", "rand"] if wants_pretraining else []) + list(checkpoints)
    methods = _subset("--methods", args.methods, (*OWN, *checkpoints)) if args.methods else tuple(default)
    unused = [name for name in checkpoints if name not in methods]
    if unused:
        raise UserError(f"--checkpoint {unused[0]} is not among --methods {args.methods}: leave it out or add it")
    if wants_pretraining and "clove" not in methods:
        raise UserError(f"--methods {args.methods} leaves nothing to pretrain: add clove, or leave out --demo, "
                        "--tiny, --epochs, --recipe and --photos")
    if args.gpus is not None and args.gpus < 0:
        raise UserError(f"--gpus must be at least 0, found {args.gpus}")
    if args.trials < 1:
        raise UserError(f"--trials must be at least 1, found {args.trials}")
    if args.probes and not {"coco", "cityscapes"} & set(tasks):
        raise UserError(f"--probes: no pixel labels for {', '.join(tasks)}; add coco or cityscapes to --tasks")
    if args.probes and methods == ("rand",):
        raise UserError("--probes: random weights stand in every probe as a baseline; add another method")
    if args.eval_every < 0:
        raise UserError(f"--eval-every must be at least 0, found {args.eval_every}")
    if args.branch and not checkpoints:
        raise UserError(f"--branch {args.branch} changes nothing here: there is no --checkpoint")
    schedules, solvers = _by_task("--schedule", args.schedule, tasks), _by_task("--solver", args.solver, tasks)
    pretrain_values, task_values = _assignments(args.assignments, tasks)
    if pretrain_values and "clove" not in methods:
        raise UserError("--set pretrain.... changes nothing here: clove is not among the methods")
    recipe, config = "", None
    if "clove" in methods:
        recipe = demo or _recipe(args, said)
        if args.epochs is not None:
            pretrain_values = {"epochs": str(args.epochs), **pretrain_values}
        config = load_config(recipe, pretrain_values)
    if args.architecture and config is not None:
        raise UserError(f"--architecture {args.architecture}: the recipe says what is pretrained, and the random "
                        "methods follow it; use --set pretrain.architecture=NAME")
    if args.architecture and not set(methods) & set(RANDOM):
        raise UserError(f"--architecture {args.architecture} changes nothing here: a checkpoint has its own; add a "
                        "random method, as in --methods rand,NAME")
    output = _output(args.output) if args.output else ROOT / "output"
    scale = demo or args.scale or "full"
    preflight = options.cluster == "slurm" and scale == "full" if args.preflight is None else args.preflight
    return Options(
        demo=bool(demo), tasks=tasks, methods=methods, trials=args.trials, scale=scale, heads=args.heads,
        checkpoints=checkpoints, photos=args.photos, imagenet=args.imagenet,
        data={option: getattr(args, option) for option in DATA}, recipe=recipe, pretrain=config,
        architecture=config.train.architecture if config else args.architecture or "resnet50", overrides=task_values,
        branch=args.branch, schedules=schedules, solvers=solvers, fit=args.fit, eval_every=args.eval_every,
        keep_predictions=args.keep_predictions, keep=args.keep,
        output=output, results=output / "results" if args.output else ROOT / "results",
        device="cpu" if args.gpus == 0 and args.device == "auto" else args.device,
        gpus=args.gpus if options.cluster == "local" else options.gpus_per_node, dry_run=args.dry_run,
        rerun=tuple(args.rerun), include_demo=args.include_demo or bool(demo), probes=args.probes,
        preflight=preflight, cluster=options, max_jobs=args.max_jobs, said=tuple(said))


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


def _checkpoints(given: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for word in given:
        name, equals, file = word.partition("=")
        if not equals or not name.strip() or not file:
            raise UserError(f"--checkpoint {word}: expected NAME=FILE, such as --checkpoint mine=ckpt_epoch_200.pth")
        if name in OWN:
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


def slug(name: str) -> str:
    """A method's name as part of a stage's."""
    return "".join(letter if letter.isalnum() or letter in "._" else "_" for letter in name)


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
