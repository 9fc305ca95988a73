"""CONTRIBUTING.md does what it says: its files are written, its changes are made to a copy, its commands run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.transfer.state_parts import layer, prefixed, resnet

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[tuple[str, str]]:
    """(name, content) of the code blocks that begin with ```kind name."""
    return re.findall(rf"^```{kind} (\S+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def write_file(name: str, folder: Path) -> Path:
    """Write the block of that name."""
    content, = [content for other, content in blocks("python") if other == name]
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def changed_copy(folder: Path, *names: str) -> Path:
    """A copy of the sources with the changes to these files made."""
    for package in ("pretrain", "transfer", "benchmarks", "results"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, change in blocks("diff"):
        if name not in names:
            continue
        lines = change.splitlines()
        before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
        after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
        text = (folder / name).read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{name} has changed: CONTRIBUTING.md shows lines that are not there"
        (folder / name).write_text(text.replace(before, after), encoding="utf-8")
    return folder


def run(*command: object, root: Path = ROOT, **environment: object) -> str:
    """The output of a Python command that succeeds, with the sources of `root`."""
    words = [sys.executable, "-P", *map(str, command)]
    variables = {**os.environ, "PYTHONPATH": str(root), **{name: str(value) for name, value in environment.items()}}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables, cwd=root)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Boxes without masks in COCO's layout."""
    (tmp_path / "cells" / "images").mkdir(parents=True)
    (tmp_path / "cells" / "annotations").mkdir()
    for number, half in enumerate(("train", "val")):
        images, boxes = [], []
        for place in range(1, 5):
            name = f"{half}{place}.png"
            Image.new("RGB", (64, 64), (200, 40 * place, 40)).save(tmp_path / "cells" / "images" / name)
            images.append({"id": place, "file_name": name, "width": 64, "height": 64})
            boxes.append({"id": place, "image_id": place, "category_id": 1, "bbox": [8, 8 + number, 24, 24],
                          "area": 576, "iscrowd": 0})
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cell"}]}
        (tmp_path / "cells" / "annotations" / f"instances_{half}.json").write_text(json.dumps(content))
    return tmp_path / "cells"


@pytest.mark.slow
def test_task__is_planned_with_an_option_of_its_own(cells: Path, tmp_path: Path) -> None:
    file = write_file("my_task.py", tmp_path)
    printed = run("-m", "benchmarks", "--methods", "rand", "--tasks", "cells", "--cells", cells, "--scale", "mini",
                  "--device", "cpu", "--output", tmp_path / "out", "--dry-run", CLOVE_TASKS=file)
    assert "finetune-rand-cells" in printed


@pytest.mark.slow
def test_task__runs_to_its_table(cells: Path, tmp_path: Path) -> None:
    file = write_file("my_task.py", tmp_path)
    run("-m", "benchmarks", "--methods", "rand", "--architecture", "resnet18", "--tasks", "cells", "--cells", cells,
        "--scale", "tiny", "--device", "cpu", "--output", tmp_path / "out", "--include-demo", CLOVE_TASKS=file)
    table = run("benchmarks/make_tables.py", "--results", tmp_path / "out" / "results", "--include-demo",
                CLOVE_TASKS=file)
    assert "Blood cells" in table and "APs bb" in table


def test_column__is_a_view_of_what_is_stored(tmp_path: Path) -> None:
    copy = changed_copy(tmp_path, "transfer/tasks/cityscapes.py")
    code = "from transfer.tasks import get; print(*[c.name for c in get('cityscapes').columns])"
    assert run("-c", code, root=copy) == "AP AP50 AP_car\n"


@pytest.mark.slow
def test_option__reaches_command_line_config_and_identity(tmp_path: Path) -> None:
    copy = changed_copy(tmp_path, "transfer/settings/request.py", "transfer/settings/resolved_config.py")
    assert "--freeze-stages N" in run("-m", "transfer", "finetune", "--help", root=copy)
    code = ("from benchmarks.options.run_options import parse\n"
            "options = parse(['--methods', 'rand', '--tasks', 'coco', '--freeze-stages', '3'])\n"
            "print(*options.protocol('coco').arguments())")
    assert run("-c", code, root=copy) == "--task coco --freeze-stages 3\n"
    code = ("from transfer.settings import resolved_config; from transfer.settings.request import Protocol\n"
            "for n in (0, 2):\n"
            "    asked = Protocol(task='coco', freeze_stages=n)\n"
            "    config = resolved_config.protocol(asked)['config']\n"
            "    print(config['MODEL']['BACKBONE']['FREEZE_AT'], *asked.arguments())")
    assert run("-c", code, root=copy) == "0 --task coco\n2 --task coco --freeze-stages 2\n"


@pytest.mark.slow
def test_objective__learns_and_is_exported(tmp_path: Path) -> None:
    file = write_file("my_objective.py", tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(8):
        Image.effect_noise((64, 64), 20 + 20 * number).convert("RGB").save(tmp_path / "photos" / f"{number}.png")
    words = ["--objective", "simsiam", "--recipe", "tiny", "--local-views", "0", "--architecture", "resnet18",
             "--data", tmp_path / "photos", "--output", tmp_path / "out", "--device", "cpu", "--workers", "0"]
    run("-m", "pretrain", *words, CLOVE_OBJECTIVES=file)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert any(-1 <= line.get("cosine", 2) <= 1 for line in lines)
    assert "SimSiam" in run("-m", "transfer", "inspect", tmp_path / "out" / "backbone.safetensors")


@pytest.mark.slow
def test_layout__names_its_method(tmp_path: Path) -> None:
    copy = changed_copy(tmp_path, "transfer/reading/families.py")
    torch.save({"state_dict": prefixed("online.trunk.", resnet()) | layer("online.slots.0", 8, 8)}, tmp_path / "x.pth")
    assert "Ours" in run("-m", "transfer", "inspect", tmp_path / "x.pth", root=copy)


def test_every_block_has_its_test() -> None:
    assert [name for name, _ in blocks("python")] == ["my_task.py", "my_objective.py"]
    changed = {name for name, _ in blocks("diff")}
    assert changed == {"transfer/tasks/cityscapes.py", "transfer/settings/request.py",
                       "transfer/settings/resolved_config.py", "transfer/reading/families.py"}
