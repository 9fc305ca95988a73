"""--benchmark: a grid of pretrainings and fine-tunings from a file, as options that the command line may override."""

import argparse
import shlex
from pathlib import Path

from benchmarks.options.checks import all_text, read_option_file
from benchmarks.options.pretrainings import read_labels
from pretrain import PLACE
from pretrain.common.errors import UserError, refuse

GRIDS = Path(__file__).resolve().parents[1] / "grids"
# What would be pretrained instead of the file's rows, or on other images.
CONTRADICTIONS = ("demo", "tiny", "epochs", "recipe", "imagenet")


def expand(parser: argparse.ArgumentParser, arguments: list[str], said: list[str]) -> list[str]:
    """The `parser`'s arguments with those of the file that --benchmark names before them; the equal
    long command goes into `said`.

    Raises `UserError` for a file that is none, and for arguments that contradict it.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--benchmark")
    named, rest = first.parse_known_args(arguments)
    if named.benchmark is None:
        return arguments
    path = Path(named.benchmark)
    if path.suffix not in (".yaml", ".yml"):
        path = GRIDS / f"{named.benchmark}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in GRIDS.glob("*.yaml")))
        raise UserError(f"--benchmark {named.benchmark}: expected a YAML file or one of {known}, "
                        "found none of that name")
    values = _read(path, parser)
    given = parser.parse_args(rest)
    contradicting = [f"--{option}" for option in CONTRADICTIONS if getattr(given, option)]
    folders = dict.fromkeys(recipe.images for recipe in read_labels(values["pretrain"]).values() if recipe.images)
    inside = "".join(f", with {folder}/ in it" for folder in folders)
    refuse(
        (contradicting, f"--benchmark {named.benchmark} itself says what is pretrained, on "
                        f"--photos: leave out {', '.join(contradicting)}"),
        (given.photos is None, f"--benchmark {named.benchmark} needs --photos DIR: a folder of "
                               f"images{inside}"),
    )
    if given.methods:  # some of its rows
        chosen = [method.strip() for method in given.methods.split(",")]
        values["pretrain"] = [text for text in values["pretrain"] if text.partition("=")[0] in chosen]
    if (given.pretrain_seeds or "").isdecimal():  # the file's are seeds, not how many
        rest = [*rest, "--pretrain-seeds", f"{given.pretrain_seeds},"]
    if given.output is None:
        values["output"] = [str(PLACE / "output" / path.stem)]
        if given.results is None:
            values["results"] = [str(PLACE / "results" / path.stem)]
    expanded = []
    for option, several in values.items():
        for value in several:
            expanded += [f"--{option}", value]
    expanded += rest
    said.append(f"benchmark {named.benchmark}, the same as: ./run_all.sh {shlex.join(expanded)}")
    return expanded


def _read(path: Path, parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """{option: its values}, all as text; --pretrain is among them."""
    expected = "lines OPTION: VALUE, with pretrain among them"
    values: dict[str, list[str]] = {}
    for option, value in read_option_file(path, expected).items():
        values[option] = value if isinstance(value, list) else [value]
        action = parser._option_string_actions.get(f"--{option}")
        refuse(
            (action is None or action.nargs == 0 or option == "benchmark",
             f"{path}: {option}: expected an option of ./run_all.sh that takes a value, without "
             "its dashes, such as trials"),
            (not all_text(values[option]),
             f"{path}: {option}: expected a value or a list of values, found {value!r}"))
    refuse(("pretrain" not in values,
            f"{path}: expected {expected}, found {', '.join(values) or 'nothing'}"))
    return values
