"""The command line of the suite: every option, with its help."""

import argparse
from pathlib import Path

from benchmarks.options import cluster, kept_models
from benchmarks.options.inputs import DATA_OPTIONS, POSTER_TASKS, PROBED
from pretrain.common.architectures import ARCHITECTURES, STANDARD
from pretrain.common.errors import UserError
from pretrain.options.recipe_file import recipe_names
from transfer.settings import request
from transfer.settings.random_starts import RAND, RANDOM_STARTS
from transfer.settings.where import add_crowds_as_objects, add_same_images
from transfer.tasks import TASKS

USAGE = """\
./run_all.sh (--demo | --tiny | --benchmark NAME | --epochs N | --recipe NAME | --pretrain LABEL=RECIPE | \
--checkpoint NAME=FILE) [options]"""
EPILOG = """\
examples:
  ./run_all.sh --demo
  ./run_all.sh --epochs 200 --imagenet IMAGENET --coco COCO --cityscapes CITYSCAPES
  ./run_all.sh --checkpoint mine=FILE --tasks coco,keypoints --coco COCO
  ./run_all.sh --benchmark mini --photos PHOTOS --coco nuclei=A --coco bccd=B
  ./run_all.sh --photos PHOTOS --recipe mini --coco DIR --tasks coco --scale mini
  ./run_all.sh --epochs 200 ... --cluster slurm --partition P --nodes 2 --gpus-per-node 8 \
--time 24:00:00 --trials 5
  ./run_all.sh --pretrain clove=mini --pretrain no_attention=mini,attention=none \
--pretrain-seeds 3 --photos PHOTOS --coco A --coco B --train-share 0.1,1 --tasks coco
The same command again resumes a run; what is done is not done again.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="run_all.sh", usage=USAGE, epilog=EPILOG, allow_abbrev=False,
        description="Pretrain CLoVE, convert, fine-tune and evaluate with detectron2, print the "
                    "paper's tables.",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("what to run")
    _pretraining_options(what)
    _method_options(what)
    _finetuning_options(what)
    _data_options(parser.add_argument_group("data"))
    _run_options(parser.add_argument_group("how"))
    cluster.add_options(parser.add_argument_group(
        "cluster", "every stage as a Slurm job; clove status, cancel, retry and logs then show and "
                   "control them"))
    return parser


def _pretraining_options(what: argparse._ArgumentGroup) -> None:
    what.add_argument("--demo", action="store_const", const="demo",
                      help="everything, small, on generated images, no GPU needed")
    what.add_argument("--tiny", action="store_const", const="tiny",
                      help="the same with two steps, two iterations and two images: whether a "
                           "machine or a cluster can run everything, in minutes")
    what.add_argument("--benchmark", metavar="NAME|FILE",
                      help="the pretrainings, seeds and fine-tunings of "
                           "benchmarks/grids/NAME.yaml; other options override its own or add to "
                           "them; results go to results/NAME, work to output/NAME")
    what.add_argument("--epochs", type=int, metavar="N",
                      help="the recipe with N epochs; if there is none, imagenet_200ep with N "
                           "epochs")
    what.add_argument("--recipe", metavar="NAME|FILE",
                      help=f"pretraining recipe: {', '.join(recipe_names())}, or a file")
    what.add_argument("--pretrain", action="append", default=[], metavar="LABEL=RECIPE[,KEY=VALUE...]",
                      help="pretrain this recipe with these values, as the row LABEL, on all "
                           "images or on those of a sub-folder (images=FOLDER); may be repeated, "
                           "for ablations and other objectives beside each other (instead of "
                           "--epochs and --recipe)")
    what.add_argument("--pretrain-seeds", metavar="N|A,B,...",
                      help="how many pretrainings of each, with the seeds from the recipe's on, or "
                           "the seeds themselves, as in 1,2,3, or 3, for one (default: 1); beside "
                           "--benchmark always seeds")


def _method_options(what: argparse._ArgumentGroup) -> None:
    random = ", ".join(f"{start.method} ({start.text})" for start in RANDOM_STARTS)
    what.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FILE",
                      help="fine-tune this checkpoint, no pretraining; NAME is its row; may be "
                           "repeated")
    what.add_argument("--tasks", default=",".join(POSTER_TASKS), metavar="A,B",
                      help=f"of {', '.join(TASKS)} (default: {','.join(POSTER_TASKS)}, the "
                           "poster's), or none: pretrain and convert alone")
    what.add_argument("--methods", metavar="A,B",
                      help="clove or the labels of --pretrain (pretrained here), "
                           "LABEL.random_convolutions (a control: the batch norm of that "
                           "pretraining, convolutions drawn anew), names of checkpoints, random "
                           f"weights: {random}; default: what is pretrained, {RAND.method} and the "
                           "checkpoints, or the checkpoints alone")
    what.add_argument("--branch", choices=("student", "teacher"),
                      help="of checkpoints that hold both (default: the one their authors "
                           "transfer)")
    what.add_argument("--architecture", choices=ARCHITECTURES,
                      help=f"of the random methods beside checkpoints (default: {STANDARD}); a "
                           "recipe says its own")


def _finetuning_options(what: argparse._ArgumentGroup) -> None:
    schedules = dict.fromkeys(name for task in TASKS.values() for name in task.schedules)
    what.add_argument("--trials", default="1", metavar="N|paired",
                      help="fine-tunings of each method and task, each with another seed (default "
                           "1); paired: one of each pretraining, with its seed, and one of all "
                           "other starts with each of these seeds")
    what.add_argument("--probes", action="store_true",
                      help=f"probe each frozen backbone too, on {' and '.join(PROBED)}: minutes, a "
                           "table of its own")
    what.add_argument("--scale", choices=request.SCALES,
                      help="of the fine-tuning: full is the published protocol (default)")
    what.add_argument("--heads", choices=request.HEADS,
                      help="head family of the detectors (default: the task's)")
    what.add_argument("--schedule", metavar="NAME|TASK=NAME,...",
                      help=f"{', '.join(schedules)}, and for one GPU NAME_1gpu (accumulates) or "
                           "NAME_1gpu_linear, for all tasks or for some, TASK=NAME,... (default: "
                           "each task's published one)")
    solvers = request.takers(lambda task: task.solvers)
    what.add_argument("--solver", metavar="NAME|TASK=NAME,...",
                      help=f"{solvers} (default: the solver that all methods share)")
    what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
                      help="override a value: pretrain.KEY=V (all pretrainings), "
                           "TASK.SOLVER.MAX_ITER=V (one task), transfer.KEY=V (all tasks); may be "
                           "repeated")


def _data_options(data: argparse._ArgumentGroup) -> None:
    data.add_argument("--imagenet", type=Path, metavar="DIR", help="ImageNet, or IMAGENET_DIR")
    data.add_argument("--photos", type=Path, metavar="DIR",
                      help="any folder of images, instead of ImageNet")
    for option in DATA_OPTIONS:
        takers, files = [], ""
        for task in TASKS.values():
            if option in task.folders:
                takers.append(task.name)
                if task.named_files:
                    files = "; annotations that lie otherwise: [LABEL=]TRAIN.json,VAL.json,IMAGES"
        text = (f"data of {', '.join(takers)}, or DETECTRON2_DATASETS; may be repeated, for "
                f"datasets named by their folders or labels{files}")
        try:
            data.add_argument(f"--{option}", action="append", default=[], metavar="[LABEL=]DIR",
                              dest=f"data_{option}", help=text)
        except argparse.ArgumentError:
            raise UserError(f"task {takers[0]}: its data cannot be named by --{option}, which is "
                            "an option already; choose another name among its folders") from None
    add_same_images(data)
    add_crowds_as_objects(data)
    data.add_argument("--train-share", default="1", metavar="A,B",
                      help="shares of the training images, each a fixed subset, beside each other "
                           "(default: 1, all)")


def _run_options(how: argparse._ArgumentGroup) -> None:
    how.add_argument("--output", type=Path, metavar="DIR",
                     help="folder for everything (default: work in output/, results in results/)")
    how.add_argument("--results", type=Path, metavar="DIR",
                     help="folder for results and tables (default: results/, or results/ in "
                          "--output); several runs may share one")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    how.add_argument("--gpus", type=int, metavar="N",
                     help="GPUs to use (default: all that are visible)")
    how.add_argument("--jobs", type=int, default=1, metavar="N",
                     help="stages at once on the CPU cores of this machine, each with its share of "
                          "them; their output goes to output.txt in their folders (default: 1)")
    request.add_shared_arguments(how)
    how.add_argument("--eval-every", type=int, default=0, metavar="N",
                     help="early metrics of the fine-tunings every N iterations; they change "
                          "nothing")
    how.add_argument("--keep-predictions", action="store_true",
                     help="keep the predictions of the fine-tunings that are still to run")
    how.add_argument("--keep", choices=kept_models.KINDS, default=kept_models.LAST,
                     help="fine-tuned models that stay when their metrics are known: none, last "
                          "(each one's; default), or best (of the trials of a method and task)")
    how.add_argument("--preflight", action=argparse.BooleanOptionalAction,
                     help="try each task first, on the machine that will run it: two iterations, a "
                          "save, two images evaluated (default: with --cluster slurm at full "
                          "scale)")
    how.add_argument("--dry-run", action="store_true",
                     help="print the plan (stages, needs, what is done, cost) and run nothing")
    how.add_argument("--rerun", action="append", default=[], metavar="STAGE",
                     help="do this stage again (and what follows if its output changes); may be "
                          "repeated")
    how.add_argument("--include-demo", action="store_true",
                     help="show demo results in the printed tables too")
