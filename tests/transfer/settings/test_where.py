"""Where a dataset lies, from the command line."""

from pathlib import Path

import pytest

from transfer.__main__ import build_parser as _parser
from transfer.settings import where
from transfer.tasks import Where

FILES = ["--train-annotations", "a.json", "--val-annotations", "b.json"]
START = {"finetune": ["--weights", "random", "--output", "out"], "preflight": ["--output", "out"],
         "evaluate": ["run", "--output", "out"], "probe": ["--weights", "random"]}


def read(command: str, *words: str) -> Where:
    return where.of(_parser(command).parse_args([command, "--task", "coco", *START[command], *words]))


@pytest.mark.parametrize("command", ["finetune", "preflight", "evaluate"])
def test_of__files_without_a_folder(command: str) -> None:
    assert read(command, *FILES, "--images", "pictures") == Where(None, Path("a.json"), Path("b.json"),
                                                                  Path("pictures"))
    assert read(command, "--data", "d") == Where(Path("d"))


@pytest.mark.parametrize("command", ["finetune", "preflight"])
def test_of__a_share_of_what_is_trained_on(command: str) -> None:
    assert read(command, "--data", "d", "--train-share", "0.25") == Where(Path("d"), train_share=0.25)


@pytest.mark.parametrize("words", [
    *([command, "--task", "coco", *more, "--data", "d"] for command, more in START.items()), ["dataset", "d"],
    ["detections", "--model", "run", "--data", "d", "--output", "a.png"]])
def test_crowds_as_objects__wherever_annotations_are_read(words: list[str]) -> None:
    assert _parser(words[0]).parse_args([*words, "--crowds-as-objects"]).crowds_as_objects


def test_of__a_probes_images_are_a_number() -> None:
    assert read("probe", "--data", "d", *FILES, "--images", "3") == Where(Path("d"), Path("a.json"), Path("b.json"))
