"""How many GPUs a run uses, and numbers that do not fit a protocol."""

import pytest

from benchmarks.options.gpus import count_gpus
from benchmarks.options.run_options import parse
from benchmarks.stages.checked_inputs import find_protocols
from pretrain.common.errors import UserError

FULL = ["--methods", "rand", "--tasks", "coco,keypoints"]


def test_gpus__the_demo_takes_one_and_a_number_that_does_not_divide_a_batch_is_told_now(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    assert count_gpus(parse(["--demo"])) == count_gpus(parse(["--tiny"])) == 1
    assert count_gpus(parse(FULL)) == 8
    assert count_gpus(parse([*FULL, "--gpus", "0"])) == 0 and parse([*FULL, "--gpus", "0"]).device == "cpu"
    with pytest.raises(UserError, match="--gpus must be at least 0, found -1"):
        parse(["--demo", "--gpus", "-1"])
    for words, text in ((["--gpus", "3"], r"IMS_PER_BATCH 16 cannot be shared by 3 processes"),
                        (["--gpus", "8", "--fit", "accumulate=4"], "accumulate=4 cannot be shared by 8 processes")):
        with pytest.raises(UserError, match=f"task coco: .*{text}"):
            find_protocols(parse([*FULL, *words]))
    linear = [*FULL, "--gpus", "1", "--fit", "linear=4", "--set"]
    find_protocols(parse([*linear, "coco.SOLVER.MAX_ITER=80000"]))  # its steps are at 240,000 and 320,000
    with pytest.raises(UserError, match=r"STEPS \(240000, 320000\) must lie before"):
        find_protocols(parse([*linear, "coco.SOLVER.MAX_ITER=240000"]))


def test_gpus__nvidia_smi_is_asked_once(monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho asked >> "{tmp_path}/log"\nprintf "GPU 0: A\\nGPU 1: B\\n"\n')
    program.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert count_gpus(parse(FULL)) == count_gpus(parse(FULL)) == 2 and count_gpus(parse(["--demo"])) == 1
    assert (tmp_path / "log").read_text() == "asked\n"
