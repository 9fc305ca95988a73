"""What `clove inspect` says, to people and to programs."""

import json
import subprocess
import sys

import pytest
import torch

from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError
from tests.transfer import dense_files, image_files, state_parts
from transfer.__main__ import build_parser as _parser
from transfer.reading.families import FAMILIES
from transfer.reading.inspection import check_checkpoint, run

KEYS = {"schema", "file", "bytes", "sha256", "container", "family", "method", "method_from", "candidates", "branch",
        "branches", "address", "epochs", "architecture", "standard", "read", "expected", "left_over", "left_why", "fpn",
        "pixels", "stride_in_1x1", "notes"}


def inspect(capsys, *words) -> tuple[int, str, str]:
    code = run(_parser("inspect").parse_args(["inspect", *map(str, words)]))
    return code, *capsys.readouterr()


@pytest.fixture
def states():
    return state_parts.resnet("resnet18"), state_parts.resnet("resnet18", 2000)


@pytest.fixture
def clove(tmp_path, states):
    torch.save(dense_files.clove(*states), tmp_path / "ckpt_epoch_200.pth")
    return tmp_path / "ckpt_epoch_200.pth"


def test_run__json_has_every_documented_key(clove, capsys):
    code, printed, errors = inspect(capsys, clove, "--json")
    report = json.loads(printed)
    assert (code, errors) == (0, "")
    assert set(report) == KEYS
    assert report == report | {
        "schema": 1, "file": "ckpt_epoch_200.pth", "bytes": clove.stat().st_size, "sha256": sha256_file(clove),
        "container": "torch", "family": "CLoVE", "method": "CLoVE", "method_from": "layout", "candidates": [],
        "branch": "student", "branches": {"student": "model:module.encoder.", "teacher": "model:module.encoder_k."},
        "address": "model:module.encoder.", "epochs": 200, "architecture": "resnet18", "standard": False, "read": 100,
        "expected": 100, "fpn": [], "stride_in_1x1": False, "notes": [],
        "left_over": {"module.encoder_k.": 100, "module.projector.": 8, "module.projector_k.": 8,
                      "module.self_attn.": 4},
        "left_why": {"module.encoder_k.": "the teacher"} | dict.fromkeys(
            ("module.projector.", "module.projector_k.", "module.self_attn."), "not of the ResNet"),
        "pixels": {"channel_order": "RGB", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}


def test_run__json_of_what_cannot_be_read_says_so(tmp_path, capsys):
    path = tmp_path / "notes.pth"
    path.write_bytes(b"no checkpoint")
    code, printed, errors = inspect(capsys, path, "--json")
    report = json.loads(printed)
    assert (code, errors) == (2, "") and "is neither a PyTorch nor a safetensors file" in report.pop("error")
    assert report == {"schema": 1, "file": "notes.pth", "parts": []}
    code, printed, errors = inspect(capsys, path)
    assert (code, printed) == (2, "") and errors.startswith(f"error: {path} is neither")


def test_run__documented_keys_are_the_keys():
    from transfer.reading import inspection
    words = set(inspection.__doc__.replace(",", " ").replace(".", " ").replace(":", " ").replace("(", " ").split())
    assert words >= KEYS


def test_run__text(clove, capsys):
    code, printed, _ = inspect(capsys, clove, "--branch", "teacher")
    assert code == 0
    assert printed.splitlines() == [
        "ckpt_epoch_200.pth",
        f"  layout     CLoVE (torch, {clove.stat().st_size / 1e6:.1f} MB)",
        "  method     CLoVE",
        "  network    student  model:module.encoder.",
        "             teacher  model:module.encoder_k.  <- read on request",
        "  epochs     200",
        "  is a       ResNet-18, not standard: the published protocols have a ResNet-50",
        "  pixels     RGB of 0..255, mean 123.675 116.28 103.53, std 58.395 57.12 57.375",
        "  stride     in the 3x3 convolution",
        "  tensors    100 of 100 read",
        "  left over  module.encoder. (100, the student), module.projector. (8), module.projector_k. (8), "
        "module.self_attn. (4)",
        f"  sha256     {sha256_file(clove)}"]


def test_run__text_of_resim_and_of_bare_names(tmp_path, states, capsys):
    torch.save(dense_files.resim(*states), tmp_path / "resim.pth.tar")
    printed = inspect(capsys, tmp_path / "resim.pth.tar")[1]
    assert "  network    student  state_dict:module.encoder_q.  <- read by default\n" in printed
    assert "  tensors    100 of 100 read, 10 of a pretrained FPN\n" in printed
    # The teacher as a whole, with its head and FPN; the student's own head by its name.
    assert "module.encoder_k. (114, the teacher), module.encoder_q.fc. (4)" in printed
    torch.save(states[0], tmp_path / "resnet50_alpha0.75.pth")
    printed = inspect(capsys, tmp_path / "resnet50_alpha0.75.pth")[1]
    assert "  method     one of VICRegL backbone, SlotCon backbone-only, Barlow Twins, " in printed
    assert "; --method NAME says which (until then it is called resnet50_alpha0.75, as the file)\n" in printed
    assert "  network    single  bare names\n" in printed
    assert "  left over  none\n" in printed


def test_run__two_containers_keep_their_names(tmp_path, states, capsys):
    torch.save(image_files.dino(*states), tmp_path / "dino.pth")
    report = json.loads(inspect(capsys, tmp_path / "dino.pth", "--json")[1])
    assert (report["branch"], report["address"]) == ("teacher", "teacher:module.backbone.")
    assert report["left_over"]["student/module.backbone."] == 100


def test_run__unknown_layout_lists_the_parts(tmp_path, states, capsys):
    content = {"net": state_parts.prefixed("a.b.", states[0]) | state_parts.layer("head", 2, 2)}
    torch.save(content, tmp_path / "mine.pth")
    code, printed, errors = inspect(capsys, tmp_path / "mine.pth")
    assert code == 2
    assert errors.startswith("error: expected a checkpoint of a known layout")
    assert "--prefix 'net:a.b.'" in errors and errors.count("\n") == 1
    assert printed.splitlines() == ["  --prefix 'net:a.b.'     100 tensors, ResNet-18", "  no ResNet 'net:head.'     2",
                                    "Name a network with --prefix; --branch student|teacher then says what it is."]
    code, printed, errors = inspect(capsys, tmp_path / "mine.pth", "--json")
    report = json.loads(printed)
    assert (code, errors, set(report)) == (2, "", {"schema", "file", "error", "parts"})
    assert report["parts"] == [{"address": "net:a.b.", "tensors": 100, "network": "ResNet-18"},
                               {"address": "net:head.", "tensors": 2, "network": None}]
    assert inspect(capsys, tmp_path / "mine.pth", "--prefix", "a.b.")[0] == 0


def test_run__empty_prefix(tmp_path, states, capsys):
    torch.save({"a": {"b": states[0]}, "c": states[1]}, tmp_path / "both.pth")
    assert inspect(capsys, tmp_path / "both.pth")[0] == 2
    assert inspect(capsys, tmp_path / "both.pth", "--prefix", "")[0] == 2
    assert inspect(capsys, tmp_path / "both.pth", "--prefix", "c:")[0] == 0


def test_help__names_every_family(capsys):
    with pytest.raises(SystemExit):
        _parser("inspect").parse_args(["inspect", "--help"])
    printed = " ".join(capsys.readouterr().out.split()).replace("- ", "-")  # argparse breaks lines at hyphens
    assert [family.name for family in FAMILIES if family.name not in printed] == []


def test_check_checkpoint__says_which_one_cannot_be_converted(tmp_path, states):
    torch.save(dict(states[0]), tmp_path / "good.pth")
    (tmp_path / "bad.pth").write_text("<html>")
    assert check_checkpoint("Mine", tmp_path / "good.pth") == sha256_file(tmp_path / "good.pth")
    with pytest.raises(UserError, match=r"^checkpoint Mine: .*bad.pth is neither a PyTorch nor a safetensors file"):
        check_checkpoint("Mine", tmp_path / "bad.pth")
    with pytest.raises(UserError, match="^checkpoint Mine: expected one of the branches of .*, found 'teacher'"):
        check_checkpoint("Mine", tmp_path / "good.pth", "teacher")


def test_check_checkpoint__needs_no_detectron2():
    code = "import sys; import transfer.reading.inspection; sys.exit('detectron2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
