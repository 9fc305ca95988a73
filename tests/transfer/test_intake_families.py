"""A file of every published layout is recognised and comes out bit for bit, every branch of it."""

import pytest
import torch

from pretrain.atomic import sha256_file
from tests.transfer import family_files
from tests.transfer.family_files import FILES, FamilyFile
from transfer.families import FAMILIES
from transfer.intake import OWN_FAMILY, read_checkpoint


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_read_checkpoint__every_family_bit_for_bit(tmp_path, file: FamilyFile, capsys):
    path, states = family_files.write(file, tmp_path)
    for branch, state in states.items():
        reading = read_checkpoint(path, branch)
        assert list(reading.state) == list(state)
        assert all(torch.equal(reading.state[name], value) for name, value in state.items())
        assert (reading.family, reading.info.branch, reading.info.architecture) == (file.family, branch, "resnet50")
        assert (reading.info.method, reading.info.epochs) == (file.method or path.stem, file.epochs)
        assert reading.info.source_sha256 == sha256_file(path)
        assert tuple(reading.branches) == file.branches
        assert reading.method_from == ("header" if file.family == OWN_FAMILY else
                                       "layout" if file.method else "file name")
        assert len(reading.fpn) == file.fpn
    default = read_checkpoint(path)
    assert default.info.branch == file.branches[0]
    assert capsys.readouterr() == ("", "")


def test_files__cover_every_family():
    assert {file.family for file in FILES} >= {family.name for family in FAMILIES} - {
        "SwAV's code", "torchvision names under module.", "Caffe2 names"}
