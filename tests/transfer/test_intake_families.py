"""A file of every published layout is recognised and comes out bit for bit, every branch of it."""

import pytest
import torch

from pretrain.atomic import sha256_file
from tests.transfer import family_files
from tests.transfer.family_files import FILES, FamilyFile
from transfer.families import FAMILIES
from transfer.intake import OWN_FAMILY, read_checkpoint


def assert_reads(file: FamilyFile, folder, architecture: str) -> None:
    path, states = family_files.write(file, folder, architecture)
    for branch, state in states.items():
        reading = read_checkpoint(path, None if branch == file.branches[0] else branch)
        assert list(reading.state) == list(state)
        assert all(torch.equal(reading.state[name], value) for name, value in state.items())
        assert (reading.family, reading.info.branch, reading.info.architecture) == (file.family, branch, architecture)
        assert (reading.info.method, reading.info.epochs) == (file.method or path.stem.removesuffix(".pth"),
                                                              file.epochs)
        assert reading.info.source_sha256 == sha256_file(path)
        assert tuple(reading.branches) == file.branches
        assert reading.method_from == ("header" if file.family == OWN_FAMILY else
                                       "layout" if file.method else "file name")
        assert len(reading.fpn) == file.fpn


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_read_checkpoint__every_family_bit_for_bit(tmp_path, file, capsys):
    assert_reads(file, tmp_path, "resnet18")
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_read_checkpoint__every_family_in_full_size(tmp_path, file):
    assert_reads(file, tmp_path, "resnet50")


def test_files__cover_every_family():
    assert {file.family for file in FILES} >= {family.name for family in FAMILIES} - {
        "SwAV's code", "torchvision names under module.", "Caffe2 names"}
