"""Archives and other protocols: what is packed is named with its command, what is whole is read."""

import argparse
import bz2
import collections
import datetime
import gzip
import io
import lzma
import os
import pathlib
import pickle
import shlex
import subprocess
import tarfile

import numpy as np
import pytest
import torch

from pretrain.common.errors import UserError
from tests.transfer import state_parts
from transfer.reading.intake import read_checkpoint
from transfer.reading.safe_load import load


@pytest.fixture
def small():
    return state_parts.resnet("resnet18")


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Packed

def tar(path, mode, *members):
    with tarfile.open(path, mode) as archive:
        for member in members:
            archive.add(member, member.name)


@pytest.mark.parametrize(("mode", "name", "what"), [
    ("w", "run.pth.tar", "is a tar (net.pth): unpack it with `tar -xf "),
    ("w:gz", "run.tar.gz", "is a tar packed with gzip: unpack it with `tar -xzf "),
    ("w:gz", "my run.pth", "is a tar packed with gzip: unpack it with `tar -xzf ")])
def test_read_checkpoint__a_tar_is_named_with_the_command_that_unpacks_it(tmp_path, small, mode, name, what):
    torch.save(small, tmp_path / "net.pth")
    tar(tmp_path / name, mode, tmp_path / "net.pth")
    message = refusal(tmp_path / name)
    assert what in message and "damaged" not in message
    (tmp_path / "net.pth").unlink()
    subprocess.run(shlex.split(message.split("`")[1]), check=True, cwd=tmp_path)
    assert len(read_checkpoint(tmp_path / "net.pth").state) == 100


@pytest.mark.parametrize(("pack", "name", "command"), [
    (gzip.compress, "net.pth.gz", "gunzip -c"), (gzip.compress, "net.pth", "gunzip -c"),
    (bz2.compress, "net.pth.bz2", "bunzip2 -c"), (lzma.compress, "net.pth.xz", "unxz -c")])
def test_read_checkpoint__a_compressed_file_is_named_with_its_command(tmp_path, small, pack, name, command):
    buffer = io.BytesIO()
    torch.save(small, buffer)
    path = tmp_path / name
    path.write_bytes(pack(buffer.getvalue()))
    message = refusal(path)
    assert f"unpack it with `{command} {path} > " in message and "damaged" not in message


def test_read_checkpoint__a_tar_that_is_cut_off(tmp_path, small):
    torch.save(small, tmp_path / "net.pth")
    tar(tmp_path / "a.tar", "w", tmp_path / "net.pth", tmp_path / "net.pth")
    size = (tmp_path / "net.pth").stat().st_size
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:size + 700])
    assert "is a tar that is cut off" in refusal(tmp_path / "a.tar")


@pytest.mark.parametrize(("text", "said"), [
    ("<!DOCTYPE html><html>", "it is a web page"), ("version https://git-lfs.github.com/spec/v1\n", "`git lfs pull`"),
    ('{"a": 1}', "download it again or name another file")])
def test_read_checkpoint__other_texts_say_what_they_are(tmp_path, text, said):
    (tmp_path / "a.pth").write_text(text)
    assert said in refusal(tmp_path / "a.pth")


# Pickle protocols

def rich(state):
    return {"state_dict": state, "args": argparse.Namespace(lr=1, name="ü", big=2**40, none=None, sizes=(1, 2, 3, 4)),
            "array": np.arange(5.0), "number": np.float64(3), "bytes": b"\xff\x00", "size": torch.Size([1, 2]),
            "order": collections.OrderedDict(a=1), "dtype": torch.float16, "name": "ü", "again": "ü"}


@pytest.mark.parametrize("container", [True, False])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_load__every_protocol_gives_the_same(tmp_path, small, protocol, container):
    content = rich(small)
    content["alias"] = content["state_dict"]
    path = tmp_path / "a.pth"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=container)
    found = load(path).content
    assert all(torch.equal(found["state_dict"][name], value) for name, value in small.items())
    assert found["alias"] is found["state_dict"]
    for key in ("args", "number", "bytes", "size", "order", "dtype", "name", "again"):
        assert found[key] == content[key], key
    assert np.array_equal(found["array"], content["array"])
    reading = read_checkpoint(path)
    assert all(torch.equal(reading.state[name], value) for name, value in small.items())


@pytest.mark.parametrize("container", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_load__what_trainings_keep_beside_the_network(tmp_path, small, protocol, container):
    """Logs, times and folders are values, without --trust; paths come as text, defaultdicts as dictionaries."""
    when = datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.UTC)
    kept = {"log": collections.defaultdict(list, loss=[1.5, 2.5]), "best": collections.defaultdict(float, {"AP": 0.25}),
            "when": when, "day": when.date(), "took": datetime.timedelta(hours=3),
            "args": argparse.Namespace(exp_dir=pathlib.PosixPath("/data/x"), other=pathlib.PureWindowsPath("a", "b")),
            "top1": np.float32(0.5), "epoch": np.int64(7), "seen": np.uint16(9), "host": np.str_("gpu7"),
            "loss": np.arange(3, dtype=np.uint8)}
    torch.save({"state_dict": small, **kept}, tmp_path / "a.pth", pickle_protocol=protocol,
               _use_new_zipfile_serialization=container)
    found = load(tmp_path / "a.pth").content
    assert found["args"].exp_dir == "/data/x" and type(found["log"]) is dict
    for name in kept.keys() - {"args", "loss"}:
        assert found[name] == kept[name], name
    assert np.array_equal(found["loss"], kept["loss"])
    reading = read_checkpoint(tmp_path / "a.pth")
    assert all(torch.equal(reading.state[name], value) for name, value in small.items())


def test_load__a_pickle_without_torch_may_keep_them_too(tmp_path):
    kept = {"log": collections.defaultdict(list, a=[1]), "when": datetime.datetime(2024, 5, 1),
            "where": pathlib.PurePosixPath("/data/x")}
    for protocol in (0, 2, 4):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(kept, protocol=protocol))
        assert load(tmp_path / "a.pkl").content == {**kept, "where": "/data/x"}


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_load__a_pickle_of_a_new_protocol_that_is_cut_off(tmp_path, small, share):
    path = tmp_path / "a.pth"
    torch.save(small, path, pickle_protocol=4, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(len(whole) * share)])
    assert "is a Python pickle, but not a whole one" in refusal(path)


class Called(int):
    def __getnewargs_ex__(self):
        return (int(self),), {"a": 1}


class Payload:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("container", [True, False])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_load__no_protocol_runs_code(tmp_path, small, protocol, container):
    path = tmp_path / "a.pth"
    torch.save({**small, "x": Payload(tmp_path / "made")}, path, pickle_protocol=protocol,
               _use_new_zipfile_serialization=container)
    assert "holds an object of the class posix.mkdir" in refusal(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("container", [True, False])
@pytest.mark.parametrize("protocol", [4, 5])
def test_load__sets_of_a_new_protocol_become_lists_and_tuples(tmp_path, small, protocol, container):
    torch.save({**small, "set": {1, 2}, "frozen": frozenset(["a"]), "empty": set(), "both": {("a", 1)}},
               tmp_path / "a.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=container)
    found = load(tmp_path / "a.pth").content
    assert sorted(found["set"]) == [1, 2]
    assert (found["frozen"], found["empty"], found["both"]) == (("a",), [], [("a", 1)])
    assert read_checkpoint(tmp_path / "a.pth").info.architecture == "resnet18"


def test_load__what_the_old_protocol_cannot_say_is_not_called_damaged(tmp_path, small):
    path = tmp_path / "a.pth"
    torch.save({**small, "x": Called(1)}, path, pickle_protocol=4)
    message = refusal(path)
    assert "cannot be read here (NEWOBJ_EX of pickle protocol 4 is not known): save the state dict alone" in message
    assert "damaged" not in message
