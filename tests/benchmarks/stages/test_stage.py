"""A stage runs once for each key, comes back after an interruption, and stops with its parent."""

import os
import subprocess
import sys

import pytest

from benchmarks.stages.stage import Stage, StageFailed, hash_product, locked, read_stamp, run_stage
from pretrain.common.errors import UserError

WRITE = "import pathlib, sys; pathlib.Path(sys.argv[1], 'out.txt').write_text(sys.argv[2])"


def stage(numbers=None, code=WRITE, **rest):
    return Stage("work", numbers or {"a": 1}, lambda folder, _: [sys.executable, "-c", code, str(folder), "text"],
                 product="out.txt", **rest)


def test_run_stage__leaves_a_stamp_that_is_read_again(tmp_path):
    work = stage()
    key = work.key({})
    stamp = run_stage(work, tmp_path, key, {}, subprocess.call)
    folder = work.folder(tmp_path, key)
    assert read_stamp(work, folder, key) == stamp
    assert stamp["output_sha256"] == hash_product(folder / "out.txt")


def test_read_stamp__is_none_when_the_product_was_touched(tmp_path):
    work = stage()
    key = work.key({})
    run_stage(work, tmp_path, key, {}, subprocess.call)
    (work.folder(tmp_path, key) / "out.txt").write_text("edited")
    assert read_stamp(work, work.folder(tmp_path, key), key) is None


def test_key__follows_numbers_inputs_and_parents():
    keys = {stage().key({}), stage({"a": 2}).key({}),
            stage(inputs={"x": "1"}).key({}), stage(inputs={"x": "2"}).key({}),
            stage(parents=("p",)).key({"p": "1"}), stage(parents=("p",)).key({"p": "2"})}
    assert len(keys) == 6
    assert stage().key({}) == stage().key({"other": "ignored"})


def test_run_stage__failing_command_says_code_and_folder(tmp_path):
    work = stage(code="import sys; sys.exit(3)")
    with pytest.raises(StageFailed, match=r"stage work failed \(exit code 3\); its files are in .*work-") as failed:
        run_stage(work, tmp_path, work.key({}), {}, subprocess.call)
    assert failed.value.code == 3
    assert read_stamp(work, work.folder(tmp_path, work.key({})), work.key({})) is None


def test_run_stage__command_without_product_fails(tmp_path):
    work = stage(code="pass")
    with pytest.raises(StageFailed):
        run_stage(work, tmp_path, work.key({}), {}, subprocess.call)


def test_hash_product__folder_hash_follows_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = hash_product(tmp_path)
    (tmp_path / "a").write_text("2")
    second = hash_product(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, hash_product(tmp_path)}) == 3


def test_locked__second_run_is_refused(tmp_path):
    refused = rf"^process {os.getpid()} on \S+ works in .*: wait for it, or choose another --output$"
    with locked(tmp_path), pytest.raises(UserError, match=refused), locked(tmp_path, patience=0.1):
        pass
    with locked(tmp_path, patience=0.1):
        pass
