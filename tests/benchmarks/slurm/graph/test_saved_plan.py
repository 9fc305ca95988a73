"""plan.json gives the same plan again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torchvision

from benchmarks.options.run_options import parse
from benchmarks.slurm import jobs
from benchmarks.stages.checked_inputs import find_inputs
from benchmarks.stages.saved_plan import Plan, plan_of, read_plan
from pretrain.common.errors import UserError


def test_plan__comes_back_as_it_was_with_the_same_keys(plan, tmp_path):
    written = plan("--cluster", "slurm", "--time", "1-0", "--sbatch", "constraint=a|b", "--sbatch", "exclusive",
                   "--setup", "module load x", "--trials", "2", "--max-jobs", "3", "--rerun", "pretrain-clove")
    written.write(tmp_path)
    read = read_plan(tmp_path)
    assert read == written
    assert [stage.planned for stage in read.stages()] == [stage.planned for stage in written.stages()]


def test_plan__a_checkpoint_and_a_demo_come_back_too(tmp_path, pictures):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "x.pth")
    mine = ["--checkpoint", f"mine={tmp_path / 'x.pth'}", "--coco", str(pictures / "coco"), "--tasks", "coco"]
    files = ",".join(str(pictures / "coco" / name) for name in ("annotations/instances_train.json",
                                                                "annotations/instances_val.json", "images"))
    for words in (["--demo"], mine, [*mine[:2], "--coco", files, "--tasks", "coco"]):
        options = parse([*words, "--output", str(tmp_path / "out")])
        written = Plan(options, find_inputs(options))
        written.write(tmp_path)
        assert read_plan(tmp_path) == written


def test_plan__folders_are_absolute(plan, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    options = parse(["--photos", "photos", "--set", "pretrain.batch_size=8", "--coco", "coco", "--tasks", "coco"])
    inputs = find_inputs(options)
    assert inputs.photos[""].folder == pictures / "photos" and inputs.data["coco"][0].folder == pictures / "coco"


def test_plan_of__a_folder_that_was_moved_or_copied_is_refused(plan, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    written = plan()
    written.write(output)
    assert plan_of(output) == written
    shutil.copytree(output, tmp_path / "copy")
    output.rename(tmp_path / "moved")
    for name in ("moved", "copy"):
        with pytest.raises(UserError, match=rf"{name} was moved or copied: its plan.json is that of a run in .*/out; "):
            plan_of(tmp_path / name)


def test_submissions__a_damaged_record_is_named(tmp_path):
    path = tmp_path / "jobs" / "one" / "submitted.json"
    path.parent.mkdir(parents=True)
    for text in ("{", "[]", '{"records": [1]}'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"submitted.json is damaged \(.*\), so its jobs are not known: see squeue"):
            jobs.newest(tmp_path)


def test_read_plan__says_what_is_wrong(plan, tmp_path):
    with pytest.raises(UserError, match=r"^found no plan.json in .*nowhere: expected a folder that ./run_all.sh worked "
                                        r"in; name it with --output DIR$"):
        read_plan(tmp_path / "nowhere")
    path: Path = plan().write(tmp_path)
    good = json.loads(path.read_text())
    for change in ({"version": "older"}, {"version": None}):
        path.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=r"plan.json was written by another version of this program, which this one "
                                            r"cannot read: start ./run_all.sh again with the same options$"):
            read_plan(tmp_path)
    edited = json.loads(json.dumps(good))
    edited["options"]["trials"] = "two"
    for text in ("", "[1]", "{", "[" * 10_000, json.dumps(edited), json.dumps(good)[:-9], "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=r"plan.json is damaged \(.*\): start ./run_all.sh again with the same"):
            read_plan(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"plan.json is damaged \(IsADirectoryError: .*\): start ./run_all.sh again"):
        read_plan(tmp_path)
