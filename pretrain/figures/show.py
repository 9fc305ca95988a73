"""Show what pretraining does: one picture of an image's views, their positive cells and what a network makes of a cell.

  python -m pretrain show --data PHOTOS --recipe photos               views and positives; random initial network
  python -m pretrain show --data PHOTOS --run OUTPUT --image 7        the network of a run's newest checkpoint
  python -m pretrain show --run OUTPUT --curves                       the training curves

The views are those that a run with this seed draws of this image in this epoch. Runs on the CPU.
"""

import argparse
import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain import objectives
from pretrain.common.errors import UserError
from pretrain.config import Config, load_config, load_identity
from pretrain.options.command_line import add_identity_options, given_values
from pretrain.options.recipe_file import recipe_names
from pretrain.options.shared_options import Train

if TYPE_CHECKING:
    from pretrain.data.images import ImageList


def build_parser() -> argparse.ArgumentParser:
    """The command line of `show`: its own options, and one for each value that changes the numbers."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain show",
        usage="python -m pretrain show --data DIR [--recipe NAME|FILE | --run OUTPUT] [options]\n"
              "       python -m pretrain show --run OUTPUT --curves [--output FILE]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of images, nested or flat")
    parser.add_argument("--image", default="0", metavar="X", help="name of the image, or its number from 0 (default 0)")
    parser.add_argument("--epoch", default="0", metavar="N", help="epoch whose views are drawn (default 0)")
    parser.add_argument("--pair", metavar="I,J", help="student and teacher view by their names in the picture, as in "
                                                      "L1,G2 (default G1,G2)")
    parser.add_argument("--cell", metavar="ROW,COL", help="student cell that is looked at, from 0 (default: a cell "
                                                          "with a positive near the middle)")
    parser.add_argument("--recipe", metavar="NAME|FILE", help=f"one of {', '.join(recipe_names())}, or a YAML file")
    parser.add_argument("--run", type=Path, metavar="OUTPUT", help="folder of a run: its values and newest checkpoint")
    parser.add_argument("--curves", action="store_true", help="draw the training curves of --run instead")
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help="the PNG to write (default views.png or curves.png here)")
    add_identity_options(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Draw what the words after `show` ask for; raises `UserError`."""
    args = build_parser().parse_args(arguments)
    output = _output(args.output or Path("curves.png" if args.curves else "views.png"))
    if args.run is not None:
        if args.recipe is not None:
            raise UserError("expected --recipe or --run, found both: a run brings its own values")
        if not args.run.is_dir():
            raise UserError(f"run folder {args.run} does not exist: expected the --output of a run")
    if args.curves:
        _curves(args.run, output)
    else:
        _views(args, output)
    print(output)
    return 0


def _output(path: Path) -> Path:
    if path.is_dir() or path.suffix.lower() != ".png":
        raise UserError(f"--output must be a file that ends in .png, found {path}")
    return path


def _curves(run: Path | None, output: Path) -> None:
    if run is None:
        raise UserError("--curves needs --run OUTPUT, the folder of a run")
    metrics = run / "metrics.jsonl"
    if not metrics.is_file():
        raise UserError(f"no metrics.jsonl in {run}: expected the --output of a run that has started")
    own = objectives.get(_stored(run, {}).objective_name).curves
    from pretrain.figures.training_figures import draw_curves

    draw_curves(metrics, output, own)


def _views(args: argparse.Namespace, output: Path) -> None:
    if args.data is None:
        raise UserError("show needs --data DIR, a folder of images (or --run OUTPUT --curves)")
    config = _config(args)
    pair = _pair(args.pair, config.train)
    epoch = _whole(args.epoch, "--epoch")
    # Only now: a wrong option should not wait for torch.
    from pretrain.data.batches import list_images
    from pretrain.data.pixels import UnreadableImage
    from pretrain.figures.cell_figure import draw_show
    from pretrain.figures.scene import load_objective, make_scene, report_cell

    names = list_images(args.data)
    names.sixteen_bit = config.train.sixteen_bit
    names.label_by(config.train.labels)
    index = find_image(args.image, names)
    try:
        scene = make_scene(names, index, epoch, config, pair)
    except UnreadableImage as error:
        raise UserError(f"{names[index]}: {error}; choose another --image") from None
    cell = scene.default_cell() if args.cell is None else find_cell(args.cell, scene.student.grid, scene.student.name)
    objective, note = load_objective(config, names.classes, args.run)
    report = report_cell(scene, cell, objective, names)
    draw_show(scene, report, note, output)
    if not scene.positives.any():
        print(f"no overlap: {scene.student.name} and {scene.teacher.name} have no positive cells; try another --pair, "
              "--epoch or --seed")


def draw_run(names: "ImageList", config: Config, run: Path, path: Path) -> None:
    """What the network of a run's newest checkpoint makes of the first image whose views overlap, written to `path`.

    Without such an image among the first few nothing is written: it is a picture, and no run fails for want of it.
    """
    from pretrain.data.pixels import UnreadableImage
    from pretrain.figures.cell_figure import draw_show
    from pretrain.figures.scene import load_objective, make_scene, report_cell

    for index in range(min(len(names), 20)):
        try:
            scene = make_scene(names, index, 0, config)
        except UnreadableImage:
            continue
        if scene.positives.any():
            objective, note = load_objective(config, names.classes, run)
            draw_show(scene, report_cell(scene, scene.default_cell(), objective, names), note, path)
            return


def _config(args: argparse.Namespace) -> Config:
    overrides = given_values(args)
    if args.run is None:
        return load_config(args.recipe, overrides)
    return _stored(args.run, overrides)


def _stored(run: Path, overrides: dict[str, Any]) -> Config:
    """The configuration that a run wrote down, with `overrides`."""
    path = run / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no run.json in {run}: expected the --output of a run") from None
    except ValueError:
        raise UserError(f"{path} is damaged: expected the values of a run") from None
    return load_identity(record, path, overrides)


def find_image(wanted: str, names: list[str]) -> int:
    """Number of the image called `wanted`: its path, its file name or stem when only one has it, or a number."""
    if wanted in names:
        return names.index(wanted)
    same = [i for i, name in enumerate(names) if wanted in (Path(name).name, Path(name).stem)]
    if len(same) == 1:
        return same[0]
    if same:
        raise UserError(f"{len(same)} images are called {wanted}: expected the path of one, for example "
                        f"{names[same[0]]} or {names[same[1]]}")
    try:
        number = int(wanted)
    except ValueError:
        near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.0)[0]
        raise UserError(f"no image {wanted!r} among {len(names)}; the nearest name is {near!r}") from None
    if not 0 <= number < len(names):
        raise UserError(f"image {number} does not exist: expected a number from 0 to {len(names) - 1}, found "
                        f"{len(names)} images")
    return number


def find_cell(wanted: str, grid: tuple[int, int], view: str) -> int:
    """Number (row-major) of the cell "ROW,COL" of a grid (H, W)."""
    try:
        row, column = (int(part) for part in wanted.split(","))
    except ValueError:
        raise UserError(f"--cell: expected ROW,COL as in 3,4, found {wanted!r}") from None
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise UserError(f"--cell {wanted} is outside the grid of {view}, {grid[0]} x {grid[1]} cells: expected rows 0 "
                        f"to {grid[0] - 1} and columns 0 to {grid[1] - 1}")
    return row * grid[1] + column


def _pair(wanted: str | None, train: Train) -> tuple[int, int]:
    """View numbers from 0 of "L1,G2"."""
    if wanted is None:
        return 0, 1
    teacher_views = [f"G{i + 1}" for i in range(train.global_views)]
    views = teacher_views + [f"L{i + 1}" for i in range(train.local_views)]
    student, _, teacher = wanted.upper().replace(" ", "").partition(",")
    if student not in views or teacher not in teacher_views or student == teacher:
        raise UserError(f"--pair: expected a student view ({views[0]} to {views[-1]}) and another, global, teacher "
                        f"view (G1 to {teacher_views[-1]}) as in {views[-1]},G1, found {wanted!r}")
    return views.index(student), views.index(teacher)


def _whole(text: str, option: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{option}: expected a whole number from 0, found {text!r}")
    return int(text)
