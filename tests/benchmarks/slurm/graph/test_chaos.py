"""Graphs on a private Slurm end equal whatever happens to them, and nothing runs twice.

CLOVE_CHAOS_MINUTES=15 CLOVE_CHAOS_SEED=7 ./run_all.sh test --slow -s -k chaos
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import time

import pytest

from benchmarks.slurm import launch
from benchmarks.stages.saved_plan import read_plan
from pretrain.runs.drill import compare
from tests.benchmarks.slurm.graph.chaos import Chaos, Draws, stand_in_result, write_sources
from tests.benchmarks.slurm.graph.conftest import ON_SLURM

pytestmark = pytest.mark.slow
EPOCHS = 4  # of two steps
HAPPENINGS = 8  # to each graph
PAUSES = (1, 10)  # seconds between them
PATIENCE = 1800.0  # seconds until a graph that is left alone is done


def test_chaos__ends_equal_and_nothing_is_doubled(slurm, words, tmp_path, monkeypatch):
    """Graph after graph for some minutes (CLOVE_CHAOS_MINUTES), and until each kind of fault has happened: one real
    pretraining, and stand-ins of fine-tunings."""
    minutes = float(os.environ.get("CLOVE_CHAOS_MINUTES", "5"))
    seed = int(os.environ.get("CLOVE_CHAOS_SEED") or random.randrange(10**6))
    print(f"\nchaos: {minutes:g} minutes, CLOVE_CHAOS_SEED={seed}")
    monkeypatch.setattr(launch, "ROOT", write_sources(tmp_path / "root"))
    draws, until = Draws(seed), time.monotonic() + 60 * minutes
    alone, graphs = tmp_path / "alone", 0
    while not graphs or time.monotonic() < until or draws.missing:
        output = tmp_path / f"graph {graphs}"
        chaos = Chaos(slurm, words("--trials", "2", *ON_SLURM, "--signal-delay", "30", output=output,
                                   pretrain__epochs=str(EPOCHS), pretrain__checkpoint_every="2"), output, draws)
        chaos.submit()
        for _ in range(HAPPENINGS):
            time.sleep(draws.chance.uniform(*PAUSES))
            if chaos.is_done():
                break
            chaos.happen()
        chaos.settle(PATIENCE)
        assert_equal(output, alone)
        shutil.rmtree(output)
        graphs += 1
    print(f"{graphs} graphs ended equal; {dict(draws.happened)}")


def assert_equal(output, alone) -> None:
    """The graph in `output` equals one that nothing happened to; its pretraining is in `alone`, and is made first."""
    folders = {path.parent.name.rpartition("-")[0]: path.parent for path in output.glob("*/stage.json")}
    stages = read_plan(output).stages()
    assert folders.keys() == {stage.name for stage in stages}
    if not alone.exists():
        environment = os.environ | {"PYTHONPATH": str(launch.ROOT)}  # without figures at its end
        subprocess.run(stages[0].command(alone, {}), env=environment, check=True, capture_output=True, timeout=900)
    assert compare(alone, folders["pretrain-clove"], 2 * EPOCHS) == []
    weights = hashlib.sha256((alone / "backbone.safetensors").read_bytes()).hexdigest()
    for name, start in (("clove", weights), ("rand", "random")):
        for trial in range(2):
            folder = folders[f"finetune-{name}-coco-{trial}"]
            assert json.loads((folder / "result.json").read_text()) == {"state": stand_in_result(start, trial)}
    assert not list(output.glob("*/doubled"))
