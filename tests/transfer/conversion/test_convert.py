"""What a conversion writes and says; that it is the same network is in test_convert_proof.py."""

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.modeling import build_backbone

from pretrain.common.backbone_file import load_backbone
from pretrain.common.errors import UserError
from transfer.conversion.certificate import read_certificate
from transfer.conversion.convert import convert, describe
from transfer.conversion.proof import PROOFS, backbone_config
from transfer.conversion.stage_maps import STAGES
from transfer.conversion.writers import detectron2_name
from transfer.reading.architecture import expected_shapes

ROOT = Path(__file__).resolve().parents[3]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def small(tmp_path, random_state):
    """A ResNet-18 as a plain torchvision file."""
    torch.save(random_state("resnet18"), tmp_path / "small.pth")
    return tmp_path / "small.pth"


# Names

@pytest.mark.parametrize("architecture", ["resnet18", "resnet34", "resnet50"])
def test_detectron2_name__covers_detectron2s_network_exactly(architecture):
    bottom_up = build_backbone(backbone_config(architecture)).bottom_up.state_dict()
    theirs = {name: tuple(value.shape) for name, value in bottom_up.items() if not name.endswith("num_batches_tracked")}
    assert {detectron2_name(name): shape for name, shape in expected_shapes(architecture).items()} == theirs


@pytest.mark.parametrize("name, expected", [
    ("conv1.weight", "stem.conv1.weight"),
    ("bn1.running_var", "stem.conv1.norm.running_var"),
    ("layer1.0.conv1.weight", "res2.0.conv1.weight"),
    ("layer3.5.bn3.bias", "res4.5.conv3.norm.bias"),
    ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
    ("layer4.0.downsample.1.running_mean", "res5.0.shortcut.norm.running_mean"),
])
def test_detectron2_name__examples(name, expected):
    assert detectron2_name(name) == expected


@pytest.mark.parametrize("name", ["fc.weight", "bn1.num_batches_tracked", "layer5.0.conv1.weight",
                                  "module.conv1.weight", "layer1.0.downsample.2.weight", "conv1.weight.extra"])
def test_detectron2_name__refuses_what_is_not_in_a_resnet(name):
    with pytest.raises(ValueError, match="not a tensor of a torchvision ResNet"):
        detectron2_name(name)


# Files

def test_convert__certificate_says_what_was_done(resnet50_folder):
    output, certificate, source = resnet50_folder
    assert json.loads((output / "conversion.json").read_text()) == certificate
    assert (certificate["source"], certificate["source_sha256"]) == ("ckpt_epoch_200.pth", sha256(source))
    assert certificate["canonical_sha256"] == sha256(output / "backbone.safetensors")
    assert certificate["targets"].keys() == {"detectron2"}
    written = certificate["targets"]["detectron2"]
    assert written["sha256"] == sha256(output / "detectron2.pkl")
    assert written["file"] == "detectron2.pkl" and written["tensors"] == 265
    assert (certificate["family"], certificate["method"]) == ("CLoVE", "CLoVE")
    assert (certificate["architecture"], certificate["standard"]) == ("resnet50", True)
    assert (certificate["branch"], certificate["epochs"]) == ("student", 200)
    assert (certificate["input"], certificate["input_sha256"]) == (source.name, sha256(source))
    assert certificate["address"] == "model:module.encoder."
    assert (certificate["consumed"], certificate["expected"], certificate["missing"]) == (265, 265, [])
    assert len(certificate["shapes"]) == 265 and certificate["shapes"]["conv1.weight"] == "64x3x7x7"
    assert len(certificate["left_over"]) == 285
    assert certificate["pixel_format"] == {"channel_order": "RGB", "mean": [123.675, 116.28, 103.53],
                                           "std": [58.395, 57.12, 57.375], "stride_in_1x1": False}
    assert set(written["largest_difference"]) == set(STAGES)
    assert max(written["largest_difference"].values()) < 1e-12
    assert certificate["fpn"] == {"transferred": [], "dropped": []} and certificate["warnings"] == []


def test_convert__files_hold_the_tensors_bit_for_bit(resnet50_folder, random_state):
    output = resnet50_folder[0]
    state, info = load_backbone(output / "backbone.safetensors")
    content = pickle.loads((output / "detectron2.pkl").read_bytes())
    assert set(content) == {"model", "__author__", "matching_heuristics", "backbone"}
    assert content["matching_heuristics"] is True
    assert content["__author__"] != "Caffe2"
    assert len(content["model"]) == len(state) == 265
    for name, value in random_state("resnet50").items():
        assert torch.equal(state[name], value)
        assert torch.equal(torch.from_numpy(content["model"][detectron2_name(name)]), value)
    assert (info.method, info.epochs, info.branch) == ("CLoVE", 200, "student")


def test_convert__same_source_gives_same_bytes(tmp_path, small):
    first, second = tmp_path / "first", tmp_path / "second"
    convert(small, first)
    convert(small, second)
    names = ["backbone.safetensors", "conversion.json", "detectron2.pkl"]
    assert sorted(path.name for path in first.iterdir()) == names
    for name in names:
        assert sha256(first / name) == sha256(second / name)


def test_convert__its_own_backbone_gives_the_same_weights(tmp_path, small, unproved):
    first = convert(small, tmp_path / "first", method="Mine")
    again = convert(tmp_path / "first" / "backbone.safetensors", tmp_path / "again")
    assert again["targets"]["detectron2"]["sha256"] == first["targets"]["detectron2"]["sha256"]
    assert again["canonical_sha256"] == first["canonical_sha256"] == again["input_sha256"]
    kept = ("family", "method", "source", "source_sha256", "epochs", "branch", "pixel_format", "shapes", "batch_norm")
    assert [again[key] for key in kept] == [first[key] for key in kept]
    assert (first["source"], first["source_sha256"]) == ("small.pth", sha256(small))
    text = describe(again, tmp_path / "again")
    assert text.startswith(f"backbone.safetensors (from small.pth, {first['source_sha256'][:12]}...): plain ")


def test_convert__method_and_branch(tmp_path, random_state, clove_content, unproved):
    torch.save(clove_content(random_state("resnet18"), random_state("resnet18", 1), 50), tmp_path / "current.pth")
    certificate = convert(tmp_path / "current.pth", tmp_path / "out", method="CLoVE teacher", branch="teacher")
    assert (certificate["method"], certificate["branch"], certificate["epochs"]) == ("CLoVE teacher", "teacher", 50)
    state = load_backbone(tmp_path / "out" / "backbone.safetensors")[0]
    assert torch.equal(state["conv1.weight"], random_state("resnet18", 1)["conv1.weight"])


@pytest.mark.parametrize("architecture, count", [("resnet18", 100), ("resnet34", 180)])
def test_convert__small_resnets_are_marked_as_not_standard(tmp_path, random_state, architecture, count):
    torch.save(random_state(architecture), tmp_path / "net.pth")
    certificate = convert(tmp_path / "net.pth", tmp_path / "out")
    assert (certificate["standard"], certificate["consumed"], certificate["expected"]) == (False, count, count)
    text = describe(certificate, tmp_path / "out")
    assert "note: not a ResNet-50: the transfer is not the published protocol" in text
    assert f"{count} of {count} tensors converted" in text


def test_describe__resnet50(resnet50_folder):
    text = describe(resnet50_folder[1], "out")
    assert text.startswith("ckpt_epoch_200.pth: CLoVE layout, ResNet-50, student, 200 epochs; method CLoVE\n"
                           "265 of 265 tensors converted, none missing; 285 left over (module.encoder_k 265, "
                           "module.projector 8, module.projector_k 8, module.self_attn 4), named in conversion.json\n"
                           "batch norm: 53 layers, variances 0.5 to 1.5, ")
    assert "feed RGB images, mean [123.675, 116.28, 103.53], std [58.395, 57.12, 57.375] of 0..255; " in text
    assert "detectron2: 265 tensors equal bit for bit; loader: detectron2's DetectionCheckpointer" in text
    assert "warning" not in text
    assert "not the published protocol" not in text


def test_convert__published_torchvision_layout(tmp_path, unproved):
    network = torchvision.models.resnet18().eval()
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    certificate = convert(tmp_path / "resnet18.pth", tmp_path / "out")
    assert (certificate["method"], certificate["left_over"]) == ("resnet18", ["fc.weight", "fc.bias"])
    assert certificate["notes"][-1] == ("No method is proved, the file's name stands for it: one of Supervised, a self-"
                                        "supervised network with a classifier trained on it; --method NAME says which.")
    assert "warning: 20 of 20 batch-norm layers have all means 0 and all variances 1" in describe(certificate, "out")


def test_convert__no_certificate_when_the_check_fails(tmp_path, small, monkeypatch):
    output = tmp_path / "sharp # and;semi%20colon"  # what an address could be cut at, and detectron2 reads
    convert(small, output)
    assert (output / "conversion.json").exists()

    def fail(path, *_):
        assert path.exists()
        raise UserError("maps differ")

    monkeypatch.setitem(PROOFS, "detectron2", fail)
    with pytest.raises(UserError, match="maps differ"):
        convert(small, output)
    # What was not proved does not stay, and what was proved before is not mixed with it.
    assert [path.name for path in output.iterdir()] == ["backbone.safetensors"]


def test_convert__an_unreadable_source_leaves_the_folder_alone(tmp_path, small, unproved):
    output = tmp_path / "out"
    with pytest.raises(UserError, match="none.pth: not found; check the path"):
        convert(tmp_path / "none.pth", output)
    assert not output.exists()
    convert(small, output)
    before = {path.name: sha256(path) for path in output.iterdir()}
    small.write_bytes(small.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged or cut off"):
        convert(small, output)
    assert {path.name: sha256(path) for path in output.iterdir()} == before


def test_convert__odd_outputs(tmp_path, small, unproved):
    (tmp_path / "loose").symlink_to(tmp_path / "nowhere")
    for output in (small, small / "deeper" / "out", tmp_path / "loose"):
        text = "^--output .*: expected a folder, found that it cannot be made .*; choose another --output$"
        with pytest.raises(UserError, match=text):
            convert(small, output)
    with pytest.raises(UserError, match=r"cannot be made \(File name too long\); choose another --output"):
        convert(small, tmp_path / ("x" * 300))
    with pytest.raises(UserError, match=r"only paths that are UTF-8, found '.*o\\udce9': choose another --output"):
        convert(small, tmp_path / os.fsdecode(b"o\xe9"))
    for name in ("what?", "two\nlines"):
        with pytest.raises(UserError, match="detectron2 cannot read a path with a question mark or a line break"):
            convert(small, tmp_path / name)
        assert not (tmp_path / name).exists()
    output = tmp_path / "out"
    convert(small, output)
    before = {path.name: sha256(path) for path in output.iterdir()}
    (tmp_path / "link.safetensors").symlink_to(output / "backbone.safetensors")
    for source in (output / "backbone.safetensors", tmp_path / "link.safetensors"):
        with pytest.raises(UserError, match="would be overwritten by its own conversion"):
            convert(source, output)
    assert {path.name: sha256(path) for path in output.iterdir()} == before


def test_convert__a_full_disk_or_a_kill_between_the_files_leaves_no_certificate(tmp_path, small, monkeypatch, unproved):
    output = tmp_path / "out"
    convert(small, output, targets=("detectron2", "timm"))
    for number, error in enumerate((OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt())):
        def broken(*_, error=error):
            raise error
        with monkeypatch.context() as patch:
            patch.setitem(PROOFS, "timm", broken)
            with pytest.raises(type(error)):
                convert(small, output, targets=("detectron2", "timm"))
        assert sorted(path.name for path in output.iterdir()) == ["backbone.safetensors", "detectron2.pkl"], number
        with pytest.raises(UserError, match="is not a converted checkpoint"):
            read_certificate(output)
    convert(small, output)  # the same call resumes from there
    assert read_certificate(output)["consumed"] == 100


def test_convert__a_folder_of_an_older_version_is_made_anew(tmp_path, small, unproved):
    output = tmp_path / "out"
    output.mkdir()
    (output / "conversion.json").write_text('{"schema": 1, "pkl_sha256": "00"}')
    (output / "detectron2.pkl").write_bytes(b"half")
    (output / "notes.txt").write_text("the user's own")
    with pytest.raises(UserError, match="expected a certificate of schema 2, found schema 1, of another version"):
        read_certificate(output)
    convert(small, output)
    assert read_certificate(output)["schema"] == 2
    assert (output / "notes.txt").read_text() == "the user's own"


def test_convert__a_source_whose_name_is_no_text(tmp_path, small, unproved):
    name = os.fsdecode(b"caf\xe9.pth")
    small.rename(tmp_path / name)
    certificate = convert(tmp_path / name, tmp_path / "out")
    assert describe(certificate, tmp_path / "out").encode().startswith(b"caf\\udce9.pth: plain torchvision names")
    assert read_certificate(tmp_path / "out")["source"] == name


# Command line

def run(*words, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-P", "-m", "transfer", *map(str, words)], cwd=cwd, env=environment,
                          capture_output=True, text=True, check=False)


def test_command__convert_writes_and_says_so(tmp_path, small):
    done = run("convert", "small.pth", "--output", "out", "--method", "Mine", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "small.pth: plain torchvision names layout, ResNet-18, single, epochs not stored; method Mine" in done.stdout
    assert "100 of 100 tensors converted" in done.stdout
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["method"] == "Mine"


@pytest.mark.slow
def test_command__mistakes_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>\n")
    done = run("convert", "page.pth", "--output", "out", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: page.pth is neither a PyTorch nor a safetensors file (it begins with "
                           "'<!DOCTYPE html>'): it is a web page, open the address in a browser and save the file "
                           "itself\n")
    torch.save({name: torch.ones(1).expand(shape) for name, shape in expected_shapes("resnet101").items()},
               tmp_path / "deep.pth")
    done = run("convert", "deep.pth", "--output", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: expected a ResNet-18, ResNet-34 or ResNet-50 under prefix ''")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_command__help_names_both_commands_without_loading_torch(tmp_path):
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "convert" in done.stdout
    assert "finetune" in done.stdout
    code = ("import sys, runpy; sys.argv = ['transfer', '--help']\n"
            "try: runpy.run_module('transfer', run_name='__main__')\n"
            "except SystemExit as end: sys.exit(end.code or 3 * ('torch' in sys.modules))")
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, check=False)
    assert done.returncode == 0
