"""--benchmark: a grid of pretrainings and fine-tunings from a file, as options that the command line may override."""

import argparse
import shlex
from pathlib import Path

import yaml

from benchmarks.options.pretrainings import read_labels
from pretrain import ROOT
from pretrain.common import yaml_text
from pretrain.common.errors import UserError

GRIDS = Path(__file__).resolve().parents[1] / "grids"
# What would be pretrained instead of the file's rows, or on other images.
CONTRADICTIONS = ("demo", "tiny", "epochs", "recipe", "imagenet")


def expand(parser: argparse.ArgumentParser, arguments: list[str], said: list[str]) -> list[str]:
    """The `parser`'s arguments with those of the file that --benchmark names before them; the equal long command goes
    into `said`.

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
    values = _read(path, named.benchmark)
    for option in values:
        action = parser._option_string_actions.get(f"--{option}")
        if action is None or action.nargs == 0 or option == "benchmark":
            raise UserError(f"{path}: {option}: expected an option of ./run_all.sh that takes a value, without its "
                            "dashes, such as trials")
    given = parser.parse_args(rest)
    _refuse(named.benchmark, given, values)
    if given.methods:  # some of its rows
        chosen = [method.strip() for method in given.methods.split(",")]
        values["pretrain"] = [word for word in values["pretrain"] if word.partition("=")[0] in chosen]
    if (given.pretrain_seeds or "").isdecimal():  # the file's are seeds, not how many
        rest = [*rest, "--pretrain-seeds", f"{given.pretrain_seeds},"]
    if given.output is None:
        values["output"] = [str(ROOT / "output" / path.stem)]
        if given.results is None:
            values["results"] = [str(ROOT / "results" / path.stem)]
    pairs = [(f"--{name}", value) for name, several in values.items() for value in several]
    words = [word for pair in pairs for word in pair] + rest
    said.append(f"benchmark {named.benchmark}, the same as: ./run_all.sh {shlex.join(words)}")
    return words


def _read(path: Path, name: str) -> dict[str, list[str]]:
    """{option: its values}, all as text."""
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in GRIDS.glob("*.yaml")))
        raise UserError(f"--benchmark {name}: expected a YAML file or one of {known}, found none of that name")
    try:
        content = yaml_text.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or "pretrain" not in content:
        raise UserError(f"{path}: expected lines OPTION: VALUE, with pretrain among them")
    values = {option: value if isinstance(value, list) else [value] for option, value in content.items()}
    for option, several in values.items():
        if not all(isinstance(value, str) for value in several):
            raise UserError(f"{path}: {option}: expected a value or a list of values, found {content[option]!r}")
    return values


def _refuse(name: str, given: argparse.Namespace, values: dict[str, list[str]]) -> None:
    contradicting = [f"--{option}" for option in CONTRADICTIONS if getattr(given, option)]
    if contradicting:
        raise UserError(f"--benchmark {name} says itself what is pretrained, on --photos: leave out "
                        f"{', '.join(contradicting)}")
    if given.photos is None:
        folders = [one.images for one in read_labels(values["pretrain"]).values() if one.images]
        inside = "".join(f", with {folder}/ in it" for folder in dict.fromkeys(folders))
        raise UserError(f"--benchmark {name} needs --photos DIR: a folder of images{inside}")
