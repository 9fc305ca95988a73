"""The mini benchmark's graph from end to end, at a size of minutes: all rows, two datasets, one seed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.demo import demo_data
from benchmarks.formats import all_tables
from pretrain import ROOT
from tests.benchmarks.table_files import REPORTED

SMALL = {"epochs": 1, "batch_size": 4, "global_size": 64, "local_views": 0, "warmup_epochs": 0, "workers": 0}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """photos/ with 4 images and 8 labelled ones in caltech101/, and two datasets in COCO's layout."""
    for seed, name in enumerate(("one", "two")):
        demo_data.main(["--output", str(tmp_path / name), "--photos", "12", "--train", "4", "--val", "2", "--seed",
                        str(seed)])
    labelled = tmp_path / "one" / "photos" / "caltech101"
    labelled.mkdir()
    for number, path in enumerate(sorted((tmp_path / "one" / "photos").glob("*.jpg"))[:8]):
        path.rename(labelled / f"class{number % 2}__{path.name}")
    return tmp_path


@pytest.mark.slow
def test_mini__every_row_on_both_datasets_and_again_without_work(images: Path) -> None:
    words = ["--benchmark", "mini", "--photos", str(images / "one" / "photos"), "--coco",
             f"first={images / 'one' / 'coco'}", "--coco", f"second={images / 'two' / 'coco'}", "--scale", "tiny",
             "--pretrain-seeds", "7", "--device", "cpu", "--include-demo", "--output", str(images / "out"),
             "--results", str(images / "results")]
    for key, value in SMALL.items():
        words += ["--set", f"pretrain.{key}={value}"]

    def run() -> str:
        done = subprocess.run([sys.executable, "-P", "-m", "benchmarks", *words], cwd=ROOT, capture_output=True,
                              text=True, timeout=1800, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert "benchmark mini, the same as: ./run_all.sh --pretrain clove=mini" in run()
    records = [json.loads(path.read_text()) for path in (images / "results" / "runs").glob("*.json")]
    rows = ("CLoVE", "CLoVE (random convolutions)", "Rand init", "Rand init (zero gamma)", "clove_half",
            "supervised_half")
    assert sorted((one["method"], one["dataset"]["label"]) for one in records) == [
        (row, label) for row in rows for label in ("first", "second")]
    assert {one["trial"] for one in records} == {one["seed"] for one in records} == {7}
    seeds = {one["method"]: (one["weights"]["pretraining"] or {}).get("seed") for one in records}
    assert seeds == {row: None if row.startswith("Rand") else 7 for row in rows}
    folders = {one["method"]: one["stage"].get("images") for one in records}
    assert folders == {row: "caltech101" if row.endswith("half") else None for row in rows}
    tables = all_tables.read_tables(images / "results", REPORTED, include_demo=True)
    assert "CLoVE (random convolutions)" in tables.shown() and tables.problems == []
    for folder in images.glob("out/*-????????"):  # results alone say what is done
        shutil.rmtree(folder)
    assert run().count("result stands") == 12 + 3 + 4
