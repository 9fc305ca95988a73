"""Show what pretraining does: an image's views, their positive cells and what a network makes of a cell.

  clove show --data PHOTOS --recipe photos               views and positives; random initial network
  clove show --data PHOTOS --run OUTPUT --image 7        the network of a run's newest checkpoint
  clove show --run OUTPUT --curves                       the training curves

The views are those that a run with this seed draws of this image in this epoch. Runs on the CPU.
"""

import argparse
import difflib
import json
from pathlib import Path
from typing import Any

from pretrain import objectives
from pretrain.common.errors import UserError, refuse
from pretrain.config import Config, load_config, load_identity
from pretrain.options.command_line import add_identity_options, given_values
from pretrain.options.recipe_file import recipe_names
from pretrain.options.shared_options import Train

METRICS = "metrics.jsonl"


def build_parser() -> argparse.ArgumentParser:
    """The command line of `show`: its own options, and one for each value that changes the
    results."""
    parser = argparse.ArgumentParser(
        prog="clove show",
        usage="clove show --data DIR [--recipe NAME|FILE | --run OUTPUT] [options]\n"
              "       clove show --run OUTPUT --curves [--output FILE]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of images, nested or flat")
    parser.add_argument("--image", default="0", metavar="X", help="name of the image, or its number from 0 (default 0)")
    parser.add_argument("--epoch", default="0", metavar="N", help="epoch whose views are drawn (default 0)")
    parser.add_argument("--pair", metavar="I,J",
                        help="student and teacher view by their names in the figure, as in L1,G2 (default G1,G2)")
    parser.add_argument("--cell", metavar="ROW,COL",
                        help="student cell that is shown, from 0 (default: one with a positive near the middle)")
    parser.add_argument("--recipe", metavar="NAME|FILE", help=f"one of {', '.join(recipe_names())}, or a YAML file")
    parser.add_argument("--run", type=Path, metavar="OUTPUT", help="folder of a run: its values and newest checkpoint")
    parser.add_argument("--curves", action="store_true", help="draw the training curves of --run instead")
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help="the PNG to write (default views.png or curves.png here)")
    add_identity_options(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Draw what the options after `show` ask for; raises `UserError`."""
    args = build_parser().parse_args(arguments)
    args.output = args.output or Path("curves.png" if args.curves else "views.png")
    refuse(
        (args.output.is_dir() or args.output.suffix.lower() != ".png",
         f"--output must be a file that ends in .png, found {args.output}"),
        (args.run and args.recipe, "expected --recipe or --run, found both: a run brings its own values"),
        (args.run and not args.run.is_dir(),
         f"run folder {args.run} does not exist: expected the --output of a run"),
        (args.curves and not args.run, "--curves needs --run OUTPUT, the folder of a run"),
        (args.curves and args.run and not (args.run / METRICS).is_file(),
         f"no {METRICS} in {args.run}: expected the --output of a run that has started"),
        (not args.curves and args.data is None,
         "show needs --data DIR, a folder of images (or --run OUTPUT --curves)"))
    if args.curves:
        own = objectives.get(_stored(args.run, {}).objective_name).curves
        from pretrain.figures.training_figures import draw_curves

        draw_curves(args.run / METRICS, args.output, own)
    else:
        _views(args, args.output)
    print(args.output)
    return 0


def _views(args: argparse.Namespace, output: Path) -> None:
    overrides = given_values(args)
    if args.run is None:
        config = load_config(args.recipe, overrides)
    else:
        config = _stored(args.run, overrides)
    pair = _pair(args.pair, config.train)
    refuse((not args.epoch.isdecimal(), f"--epoch: expected a whole number from 0, found {args.epoch!r}"))
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
        scene = make_scene(names, index, int(args.epoch), config, pair)
    except UnreadableImage as error:
        raise UserError(f"{names[index]}: {error}; choose another --image") from None
    cell = scene.default_cell() if args.cell is None else find_cell(args.cell, scene.student.grid, scene.student.name)
    objective, note = load_objective(config, names.classes, args.run)
    report = report_cell(scene, cell, objective, names)
    draw_show(scene, report, note, output)
    if not scene.positives.any():
        print(f"no overlap: {scene.student.name} and {scene.teacher.name} have no positive cells; try another --pair, "
              "--epoch or --seed")


def _stored(run: Path, overrides: dict[str, Any]) -> Config:
    """The configuration that a run wrote down, with `overrides`."""
    path = run / "run.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"{path} is missing or damaged: expected the --output of a run, found: {error}") from None
    return load_identity(record, path, overrides)


def find_image(wanted: str, names: list[str]) -> int:
    """Number of the image called `wanted`: its path, its file name or stem when only one has it,
    or a number."""
    if wanted in names:
        return names.index(wanted)
    same = []
    for number, name in enumerate(names):
        if wanted in (Path(name).name, Path(name).stem):
            same.append(number)
    if len(same) == 1:
        return same[0]
    if not same and wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    near = [names[number] for number in same[:2]] or difflib.get_close_matches(wanted, names, n=1, cutoff=0.0)
    raise UserError(f"--image {wanted}: expected the path of an image, a name that only one has, or a number from 0 "
                    f"to {len(names) - 1}, found {len(same)} images of this name; for example {' or '.join(near)}")


def find_cell(wanted: str, grid: tuple[int, int], view: str) -> int:
    """Number (row-major) of the cell "ROW,COL" of a grid (H, W)."""
    row, _, column = wanted.partition(",")
    rows, columns = grid
    refuse((not (row.isdecimal() and column.isdecimal() and int(row) < rows and int(column) < columns),
            f"--cell: expected ROW,COL as in 1,0 of {view} with {rows} x {columns} cells, rows 0 to {rows - 1} and "
            f"columns 0 to {columns - 1}, found {wanted!r}"))
    return int(row) * columns + int(column)


def _pair(wanted: str | None, train: Train) -> tuple[int, int]:
    """View numbers from 0 of "L1,G2"."""
    if wanted is None:
        return 0, 1
    teacher_views = [f"G{i + 1}" for i in range(train.global_views)]
    views = teacher_views + [f"L{i + 1}" for i in range(train.local_views)]
    student, _, teacher = wanted.upper().replace(" ", "").partition(",")
    refuse((student not in views or teacher not in teacher_views or student == teacher,
            f"--pair: expected a student view ({views[0]} to {views[-1]}) and another, global, teacher view (G1 to "
            f"{teacher_views[-1]}) as in {views[-1]},G1, found {wanted!r}"))
    return views.index(student), views.index(teacher)
