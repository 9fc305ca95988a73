"""A file of every published layout is recognised and comes out bit for bit, every branch of it."""

import os
import pickle

import pytest
import torch

from pretrain.common.atomic import sha256_file
from pretrain.common.backbone_file import BackboneInfo, save_backbone
from pretrain.common.errors import UserError
from pretrain.config import load_config
from pretrain.model import Student, Teacher
from tests.transfer import dense_files, image_files, other_names, state_parts
from tests.transfer.family_table import FILES, FamilyFile, write
from transfer.reading.families import FAMILIES
from transfer.reading.intake import read_checkpoint
from transfer.reading.network_choice import OWN_FAMILY
from transfer.reading.networks import LayoutError


def assert_reads(file: FamilyFile, folder, architecture: str) -> None:
    path, states = write(file, folder, architecture)
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
        assert set(file.candidates) <= set(reading.candidates)
        assert not (file.method and reading.candidates)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_read_checkpoint__every_family_bit_for_bit(tmp_path, file, capsys):
    assert_reads(file, tmp_path, "resnet18")
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_read_checkpoint__every_family_in_full_size(tmp_path, file):
    assert_reads(file, tmp_path, "resnet50")


def test_files__cover_every_family():
    assert {file.family for file in FILES} >= {family.name for family in FAMILIES} - {"Caffe2 names"}


# What a family has beside its network

def written(content, path, save=torch.save):
    save(content, path)
    return path


@pytest.fixture
def small():
    return state_parts.resnet("resnet18")


@pytest.fixture
def other():
    return state_parts.resnet("resnet18", 2000)


def test_read_checkpoint__msra_pixels_and_stride(tmp_path, small, other):
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps(other_names.msra(small, other), protocol=2))
    info = read_checkpoint(path).info
    assert (info.channel_order, info.stride_in_1x1) == ("BGR", True)
    assert [255 * value for value in info.pixel_mean] == pytest.approx([103.53, 116.28, 123.675])
    assert [255 * value for value in info.pixel_std] == pytest.approx([1, 1, 1])
    assert sorted(read_checkpoint(path).left_over) == ["conv1_b", "fc1000_b", "fc1000_w"]


def test_read_checkpoint__everything_else_is_rgb(tmp_path, small, other):
    for i, build in enumerate((dense_files.slotcon, image_files.swav, dense_files.resim_converted)):
        info = read_checkpoint(written(build(small, other), tmp_path / f"{i}.pth")).info
        assert (info.channel_order, info.stride_in_1x1, info.pixel_mean) == ("RGB", False, (0.485, 0.456, 0.406))


def test_read_checkpoint__nonzero_stem_bias_of_msra_is_told(tmp_path, small, other):
    content = other_names.msra(small, other)
    content["conv1_b"][3] = 0.5
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps(content, protocol=2))
    assert read_checkpoint(path).notes == ("conv1_b is not zero and is left out, as detectron2 leaves it out.",)


def test_read_checkpoint__a_classifier_of_1000_classes_proves_no_method(tmp_path, small, monkeypatch):
    path = written(small | {"fc.weight": torch.zeros(1000, 512)}, tmp_path / "mine.pth")
    labelled = read_checkpoint(path)
    assert (labelled.info.method, labelled.method_from) == ("mine", "file name")
    assert labelled.candidates == ("Supervised", "a self-supervised network with a classifier trained on it")
    # The file that torchvision publishes is known by its sum, whose first digits are in its address.
    monkeypatch.setattr("transfer.reading.intake.sha256_file", lambda _path: "f37072fd" + 56 * "0")
    published = read_checkpoint(path)
    assert (published.info.method, published.method_from, published.candidates) == ("Supervised", "sum", ())


@pytest.mark.parametrize("build", [dense_files.resim, dense_files.resim_converted])
def test_read_checkpoint__resim_fpn_bit_for_bit(tmp_path, small, other, build):
    reading = read_checkpoint(written(build(small, other), tmp_path / "resim.pth.tar"))
    expected = dense_files.fpn()
    assert reading.fpn.keys() == expected.keys()
    assert all(torch.equal(reading.fpn[name], value) for name, value in expected.items())
    assert not [name for name in reading.left_over if "encoder_q.fpn" in name or name.startswith("backbone.")]
    assert any("10 tensors of its convolutions read." in note for note in reading.notes)


def test_read_checkpoint__resim_teacher_has_its_own_fpn(tmp_path, small, other):
    path = written(dense_files.resim(small, other), tmp_path / "resim.pth.tar")
    fpn, expected = read_checkpoint(path, "teacher").fpn, dense_files.fpn(start=6000)
    assert all(torch.equal(fpn[name], value) for name, value in expected.items())


def test_read_checkpoint__resim_fpn_with_batch_norm(tmp_path, small, other):
    path = written(dense_files.resim(small, other, norm=True), tmp_path / "resim.pth.tar")
    reading = read_checkpoint(path)
    expected = {name.replace(".0.", "."): value for name, value in dense_files.fpn(norm=True).items() if ".0." in name}
    assert reading.fpn.keys() == expected.keys()
    assert all(torch.equal(reading.fpn[name], value) for name, value in expected.items())
    assert "module.encoder_q.fpn_lateral5.1.running_mean" in reading.left_over
    assert reading.notes == ("A pretrained FPN is in the file: 5 tensors of its convolutions read, 20 of its batch "
                             "norm left (pretraining with --fpn-bn).",)


def test_read_checkpoint__broken_fpn_is_refused(tmp_path, small, other):
    content = dense_files.resim(small, other)
    content["state_dict"]["module.encoder_q.fpn_output4.weight"] = torch.zeros(256, 256, 1, 1)
    path = written(content, tmp_path / "resim.pth.tar")
    assert "of the shape [256, 256, 3, 3] in module.encoder_q.fpn_output4.weight" in refusal(path)
    content["state_dict"]["module.encoder_q.fpn_output4.weight"] = torch.full((256, 256, 3, 3), float("nan"))
    assert "expected finite numbers" in refusal(written(content, path))


def test_read_checkpoint__densecls_second_copy_of_the_student_is_no_other_network(tmp_path, small, other):
    reading = read_checkpoint(written(dense_files.densecl_raw(small, other), tmp_path / "epoch_200.pth"))
    assert (reading.notes, reading.left["encoder_q.0.conv1.weight"]) == ((), "repeats another")
    assert reading.left["encoder_k.0.conv1.weight"] == "the teacher"


def test_read_checkpoint__plain_names_are_not_guessed(tmp_path, small):
    reading = read_checkpoint(written(small, tmp_path / "resnet50_alpha0.9.pth"))
    assert (reading.info.method, reading.method_from) == ("resnet50_alpha0.9", "file name")
    assert {"VICRegL backbone", "SlotCon backbone-only", "Barlow Twins", "DINO ResNet-50"} <= set(reading.candidates)
    author = read_checkpoint(written({"state_dict": small, "author": "OpenSelfSup"}, tmp_path / "extracted.pth"))
    assert (author.family, author.info.method) == ("plain torchvision names", "extracted")


def test_read_checkpoint__epochs_of_lightning_are_left_open(tmp_path, small, other):
    reading = read_checkpoint(written(image_files.solo_learn(small, other), tmp_path / "byol.ckpt"))
    assert reading.info.epochs is None
    assert "The stored epoch is 99, counted from 0 or 1 by version" in reading.notes[0]


def test_read_checkpoint__author_of_a_detectron2_pickle_is_told(tmp_path, small):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(other_names.detectron2_pickle(small, "lalala")))
    assert read_checkpoint(path).notes == ("The file says __author__ 'lalala', as converters of SlotCon do.",)


def test_read_checkpoint__one_of_several_heads_is_another_method(tmp_path, small, other):
    content = image_files.swav(small, other)
    content["module.prototypes.prototypes0.weight"] = content.pop("module.prototypes.weight")
    reading = read_checkpoint(written(content, tmp_path / "deepclusterv2_800ep_pretrain.pth.tar"))
    assert (reading.family, reading.info.method) == ("SwAV's code", "deepclusterv2_800ep_pretrain")


# Which network is meant

def refusal(path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_read_checkpoint__prefix_in_an_unknown_layout(tmp_path, small, other):
    content = {"model": state_parts.prefixed("module.net.", small) | state_parts.prefixed("module.ema.", other)}
    path = written(content, tmp_path / "mine.pth")
    with pytest.raises(LayoutError) as caught:
        read_checkpoint(path)
    assert [(part.address, part.tensors, part.title) for part in caught.value.choices] == [
        ("model:module.net.", 100, "ResNet-18"), ("model:module.ema.", 100, "ResNet-18")]
    for prefix in ("module.ema.", "model:module.ema."):
        reading = read_checkpoint(path, prefix=prefix, branch="teacher")
        assert all(torch.equal(reading.state[name], value) for name, value in other.items())
        assert (reading.info.branch, reading.family) == ("teacher", "unknown layout")
        assert reading.address == "model:module.ema."
        assert "the pixel format is an assumption" in reading.notes[0]
    message = refusal(path, prefix="module.student.")
    assert "expected a ResNet under the prefix 'module.student.'" in message
    assert "it holds 'model:module.net.' (100), 'model:module.ema.' (100): choose one of these prefixes" in message


def test_read_checkpoint__prefix_of_a_known_layout_is_that_branch(tmp_path, small, other):
    path = written(dense_files.clove(small, other), tmp_path / "ckpt.pth")
    reading = read_checkpoint(path, prefix="module.encoder_k.")
    assert (reading.family, reading.info.branch, reading.info.method) == ("CLoVE", "teacher", "CLoVE")
    assert "is the student: leave --branch or --prefix out" in refusal(path, prefix="module.encoder.", branch="teacher")


def test_read_checkpoint__the_first_layout_chooses_and_the_other_network_is_told(tmp_path, small, other):
    path = written(dense_files.clove(small, small) | other, tmp_path / "both.pth")
    reading = read_checkpoint(path)
    assert torch.equal(reading.state["conv1.weight"], small["conv1.weight"])
    assert (reading.family, reading.info.method) == ("CLoVE", "CLoVE")
    assert "The file holds another network, with bare names, that was not read." in reading.notes
    named = read_checkpoint(path, prefix=":")
    assert torch.equal(named.state["conv1.weight"], other["conv1.weight"])
    assert (named.family, named.info.epochs) == ("unknown layout", None)


def test_read_checkpoint__prefix_that_is_in_two_places(tmp_path, small, other):
    path = written({"a": state_parts.prefixed("net.", small), "b": {"c": state_parts.prefixed("net.", other)}},
                   tmp_path / "two.pth")
    assert "choose between --prefix 'a:net.' and --prefix 'b/c:net.'" in refusal(path, prefix="net.")
    reading = read_checkpoint(path, prefix="b/c:net.")
    assert torch.equal(reading.state["bn1.bias"], other["bn1.bias"])


@pytest.mark.parametrize("prefix, names", [("net.", other_names.indexed), ("", other_names.indexed),
                                           ("backbone.bottom_up.", lambda state: {
                                               other_names.detectron2_name(name): value
                                               for name, value in state.items()})])
def test_read_checkpoint__prefix_with_names_of_another_dialect(tmp_path, small, prefix, names):
    path = written({"model": state_parts.prefixed(prefix, names(small))}, tmp_path / "dialect.pth")
    state = read_checkpoint(path, prefix=prefix).state
    assert all(torch.equal(state[name], value) for name, value in small.items())


def test_read_checkpoint__missing_default_branch_is_not_replaced(tmp_path, small, other):
    content = dense_files.slotcon(small, other)
    del content["model"]["module.grouping_k.slot_embed.weight"]
    assert "expected a checkpoint of a known layout" in refusal(written(content, tmp_path / "cut.pth"))
    content = image_files.dino(small, other)
    del content["teacher"]
    path = written(content, tmp_path / "student.pth")
    assert "expected the teacher, which the authors of DINO transfer" in refusal(path)
    assert "found only student: add --branch" in refusal(path)
    assert read_checkpoint(path, "student").info.branch == "student"


# Bare pickles

class Payload:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_read_checkpoint__pickle_that_would_run_code(tmp_path, small, other, capsys):
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(other_names.msra(small, other) | {"x": Payload(tmp_path / "made")}, protocol=2))
    assert "holds an object of the class posix.mkdir" in refusal(path)
    assert "add --trust if you know where the file comes from" in refusal(path)
    assert not (tmp_path / "made").exists()
    assert read_checkpoint(path, trust=True).family == "MSRA"
    assert (tmp_path / "made").exists()
    assert f"warning: --trust: {path} may run any code" in capsys.readouterr().err


@pytest.mark.parametrize("text, refused", [
    (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"), (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
    (b"cnumpy.core.multiarray\nos\n.", "numpy.core.multiarray.os")])
def test_read_checkpoint__only_arrays_are_built(tmp_path, text, refused):
    path = tmp_path / "x.pkl"
    path.write_bytes(text)
    assert f"holds an object of the class {refused}" in refusal(path)


def test_read_checkpoint__only_latin1_bytes_are_decoded(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.")
    assert "is a Python pickle that cannot be read here (encoding 'rot13')" in refusal(path)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_read_checkpoint__arrays_of_old_and_new_pickles(tmp_path, small, other, protocol):
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps(other_names.msra(small, other), protocol=protocol))
    assert torch.equal(read_checkpoint(path).state["layer1.0.bn1.bias"], small["layer1.0.bn1.bias"])


def test_read_checkpoint__real_networks_of_our_pretraining(tmp_path):
    config = load_config("demo")
    student = Student(config.train, config.objective)
    teacher = Teacher(student)
    torch.nn.init.constant_(teacher.encoder.bn1.bias, 3)
    path = written({"student": student.state_dict(), "follower": teacher.state_dict(), "optimizer": {}, "scaler": {},
                    "rng": torch.get_rng_state()}, tmp_path / "step_00000001.pt")
    for branch, network in (("student", student), ("teacher", teacher)):
        reading = read_checkpoint(path, branch)
        assert (reading.family, reading.info.method) == ("our pretraining checkpoint", "CLoVE")
        assert all(torch.equal(value, network.encoder.state_dict()[name]) for name, value in reading.state.items())


PRETRAINING = {"objective": "clove", "seed": 3, "recipe_sha256": "a" * 64, "images_sha256": "b" * 64}


def test_read_checkpoint__the_last_one_of_a_finished_run_is_that_pretraining(tmp_path, random_state):
    student, teacher = random_state("resnet18"), random_state("resnet18", 1)
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    content = dense_files.own_checkpoint(student, teacher)
    last, earlier, alone = (written(content, tmp_path / name) for name in (
        "run/checkpoints/step_00000008.pt", "run/checkpoints/step_00000004.pt", "step_00000008.pt"))
    save_backbone(tmp_path / "run/backbone.safetensors", student, BackboneInfo(
        "CLoVE", "resnet18", 200, "student", pretraining=PRETRAINING))
    assert read_checkpoint(last).info.pretraining is None  # not finished
    (tmp_path / "run/done.json").write_text('{"steps": 8}')
    for branch in ("student", "teacher"):
        info = read_checkpoint(last, branch).info
        assert (info.pretraining, info.epochs, info.branch) == (PRETRAINING, 200, branch)
    for path in (earlier, alone):
        assert (read_checkpoint(path).info.pretraining, read_checkpoint(path).info.epochs) == (None, None)
