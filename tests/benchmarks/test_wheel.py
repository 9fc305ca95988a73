"""A wheel, installed in a fresh venv that has no detectron2: what works without it works, the rest is one line."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
import torchvision

from pretrain import ROOT, __version__


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of the venv. Its other packages are this environment's, but for those that `clove setup` installs."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command: object) -> str:
        return subprocess.run(list(map(str, command)), env=environment, cwd=folder, check=True, text=True,
                              capture_output=True).stdout

    source = folder / "source"
    source.mkdir()
    for name in ("pretrain", "transfer", "benchmarks", "results", "pyproject.toml", "README.md", "LICENSE",
                 "detectron2-requirements.txt"):
        (source / name).symlink_to(ROOT / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--wheel-dir", folder, source)
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", *folder.glob("*.whl"))
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("detectron2", "cityscapesscripts", "lvis"):
        (site / f"{name}.py").write_text(f"raise ImportError('no module {name}', name='{name}')\n")
    return python.parent


@pytest.fixture
def clove(installed: Path, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*words: object) -> subprocess.CompletedProcess:
        return subprocess.run([installed / "clove", *map(str, words)], env=environment, cwd=tmp_path, text=True,
                              capture_output=True, check=False)
    return run


@pytest.mark.slow
def test_wheel__works_in_the_current_folder_without_detectron2(clove, tmp_path):
    assert clove("--version").stdout == f"clove {__version__}\n"
    tables = clove("tables")
    assert tables.returncode == 0, tables.stderr
    assert "paper (poster)" in tables.stdout and (tmp_path / "results" / "tables" / "tables.csv").is_file()
    assert clove("report").returncode == 0 and (tmp_path / "results" / "tables" / "report.html").is_file()

    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    inspected = clove("inspect", "r18.pth")
    assert inspected.returncode == 0 and "torchvision" in inspected.stdout, inspected.stderr
    converted = clove("convert", "r18.pth", "--to", "torchvision,timm", "--output", "converted")
    assert converted.returncode == 0, converted.stderr
    assert json.loads((tmp_path / "converted" / "conversion.json").read_text())["versions"]["detectron2"] is None
    asked = clove("convert", "r18.pth", "--output", "other")
    assert asked.returncode == 2 and not (tmp_path / "other").exists()
    assert "which is not installed: run `clove setup`, or leave it out with --to" in asked.stderr
    shown = clove("pretrain", "--help")
    assert shown.returncode == 0 and "imagenet_200ep" in shown.stdout  # the recipes are in the wheel


@pytest.mark.slow
def test_wheel__the_rest_says_what_to_install(clove, tmp_path):
    ended = clove("finetune", "--task", "coco", "--weights", "random", "--data", "x", "--output", "y")
    assert (ended.returncode, ended.stderr) == (
        2, "error: clove finetune needs detectron2, which is not installed: run `clove setup`, once\n")
    assert list(tmp_path.iterdir()) == []
