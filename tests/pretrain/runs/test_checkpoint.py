"""Checkpoints are whole or not there, safe to load, and the newest whole one counts."""

import errno
import json
from pathlib import Path

import pytest
import torch

from pretrain.common.atomic import sha256_file
from pretrain.common.backbone_file import BackboneInfo, header_of, load_backbone, read_header, save_backbone
from pretrain.common.errors import UserError
from pretrain.runs import checkpoint


def state(value: float) -> dict:
    moments = {"state": {0: {"m": torch.ones(2)}}}
    return {"student": {"weight": torch.full((3, 3), value)}, "optimizer": moments, "n": [1]}


def save(output: Path, step: int, meta: dict, keep: int, archive_every: int = 0) -> Path:
    path = checkpoint.save(output, step, state(step), meta)
    checkpoint.remove_others(path, keep, archive_every)
    return path


def test_save__writes_a_readable_note(tmp_path: Path) -> None:
    path = save(tmp_path, 3, {"steps": 9}, keep=2)
    note = json.loads(path.with_suffix(".json").read_text())
    assert note == {"step": 3, "steps": 9, "sha256": sha256_file(path)}


def files(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "checkpoints").iterdir())


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Steps 2, 4 and 6, all kept."""
    for step in (2, 4, 6):
        save(tmp_path, step, {"steps": 9}, keep=3)
    return tmp_path


def test_save__what_was_saved_is_loaded(three: Path) -> None:
    loaded, meta, passed_over = checkpoint.load_newest(three)
    assert torch.equal(loaded["student"]["weight"], torch.full((3, 3), 6.0))
    assert loaded["optimizer"]["state"][0]["m"].tolist() == [1, 1] and loaded["n"] == [1]
    assert (meta["step"], meta["steps"], passed_over) == (6, 9, [])


def test_save__memory_format_and_dtype_survive(tmp_path: Path) -> None:
    value = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    checkpoint.save(tmp_path, 1, {"a": value, "b": value.bfloat16()}, {})
    loaded = checkpoint.load_newest(tmp_path)[0]
    assert torch.equal(loaded["a"], value) and loaded["a"].stride() == value.stride()
    assert loaded["b"].dtype == torch.bfloat16


def test_save__keeps_the_newest(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        save(tmp_path, step, {}, keep=2)
    assert files(tmp_path) == ["step_00000006.json", "step_00000006.pt", "step_00000008.json", "step_00000008.pt"]


def test_save__a_copy_that_somebody_made_is_left_alone(three: Path) -> None:
    mine = three / "checkpoints" / "step_00000006_mine.pt"
    mine.write_bytes(b"precious")
    assert checkpoint.load_newest(three)[1:] == ({"step": 6, "steps": 9} | checkpoint.load_newest(three)[1], [])
    save(three, 8, {}, keep=1, archive_every=2)
    assert mine.read_bytes() == b"precious"


def test_load__nothing_there(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path) == (None, {}, [])


def test_load__truncated_newest_is_passed_over(three: Path) -> None:
    path = three / "checkpoints" / "step_00000006.pt"
    path.write_bytes(path.read_bytes()[:-100])
    loaded, meta, passed_over = checkpoint.load_newest(three)
    assert meta["step"] == 4 and loaded["student"]["weight"][0, 0] == 4
    assert passed_over == ["step_00000006.pt is damaged (its bytes do not fit its checksum)"]


def test_load__one_changed_byte_is_noticed(three: Path) -> None:
    path = three / "checkpoints" / "step_00000006.pt"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert checkpoint.load_newest(three)[1]["step"] == 4


def test_load__without_its_json_it_does_not_count(three: Path) -> None:
    (three / "checkpoints" / "step_00000006.json").unlink()
    _, meta, passed_over = checkpoint.load_newest(three)
    assert meta["step"] == 4 and passed_over == ["step_00000006.pt was not finished (no step_00000006.json)"]


@pytest.mark.parametrize("text", ["", "{", '{"step": 6}', "[1]"])
def test_load__json_that_is_none(three: Path, text: str) -> None:
    (three / "checkpoints" / "step_00000006.json").write_text(text)
    _, meta, passed_over = checkpoint.load_newest(three)
    assert meta["step"] == 4 and len(passed_over) == 1 and "step_00000006.pt is damaged" in passed_over[0]


def test_load__all_damaged(three: Path) -> None:
    for path in (three / "checkpoints").glob("*.pt"):
        path.write_bytes(b"")
    loaded, meta, passed_over = checkpoint.load_newest(three)
    assert loaded is None and meta == {} and len(passed_over) == 3


def test_load__runs_no_code_from_a_file(three: Path, tmp_path: Path) -> None:
    """A pickle that would call something is refused, even with a fitting checksum."""

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "touched",)

    path = three / "checkpoints" / "step_00000006.pt"
    torch.save({"a": Evil()}, path)
    meta = {"step": 6, "sha256": sha256_file(path)}
    path.with_suffix(".json").write_text(json.dumps(meta))
    with pytest.raises(Exception, match="[Ww]eights"):
        checkpoint.load_newest(three)
    assert not (tmp_path / "touched").exists()


def test_save__after_a_damaged_newer_one_the_good_ones_stay(three: Path) -> None:
    """Step 6 was damaged, the run went on from 4: saving 5 must not keep 6 in the place of a good one."""
    (three / "checkpoints" / "step_00000006.pt").write_bytes(b"")
    save(three, 5, {}, keep=1)
    assert files(three) == ["step_00000005.json", "step_00000005.pt"]
    assert checkpoint.load_newest(three)[1]["step"] == 5


def test_load__clears_what_a_killed_writer_left(three: Path) -> None:
    left = three / "checkpoints" / ".step_00000008.1234.part.pt"
    left.write_bytes(b"half")
    assert checkpoint.load_newest(three)[1]["step"] == 6
    assert not left.exists()


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_then_no_space(self: Path, content: bytes) -> None:
    with open(self, "wb") as file:
        file.write(content[:len(content) // 2])
    no_space()


@pytest.mark.parametrize(("where", "what", "how"), [
    (torch, "save", no_space), (Path, "write_bytes", half_then_no_space)], ids=["torch.save", "half written"])
def test_save__full_disk_leaves_nothing_half_written(three: Path, monkeypatch: pytest.MonkeyPatch, where: object,
                                                     what: str, how: object) -> None:
    before = files(three)
    monkeypatch.setattr(where, what, how)
    with pytest.raises(OSError, match="No space left on device"):
        save(three, 8, {}, keep=1)
    assert files(three) == before
    assert checkpoint.load_newest(three)[1]["step"] == 6


def test_save__a_device_that_is_really_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own error comes through, with its number: torch's file writer would hide it."""
    monkeypatch.setattr(Path, "write_bytes", lambda _, content: write_to_full(content))

    def write_to_full(content: bytes) -> None:
        with open("/dev/full", "wb") as file:
            file.write(content)

    with pytest.raises(OSError) as error:
        save(tmp_path, 1, {}, keep=1)
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as error:
        save_backbone(tmp_path / "backbone.safetensors", {"a": torch.ones(3)}, BackboneInfo("CLoVE", "resnet18"))
    assert error.value.errno == errno.ENOSPC and not (tmp_path / "backbone.safetensors").exists()


def test_backbone__what_was_saved_is_loaded(tmp_path: Path) -> None:
    info = BackboneInfo("CLoVE", "resnet18", 3, branch="student", source_name="x", source_sha256="y", classes=3,
                        pretraining={"objective": "o", "seed": 0, "recipe_sha256": "0" * 64, "images_sha256": "f" * 64})
    values = {"conv1.weight": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), "n": torch.tensor(3)}
    digest = save_backbone(tmp_path / "b.safetensors", values, info)
    loaded, read = load_backbone(tmp_path / "b.safetensors")
    assert read == info and loaded.keys() == values.keys()
    assert digest == sha256_file(tmp_path / "b.safetensors")
    assert all(torch.equal(loaded[name], value) for name, value in values.items())


def test_backbone__a_header_of_an_older_version(tmp_path: Path) -> None:
    info = BackboneInfo("CLoVE", "resnet18", 3)
    header = json.loads(header_of(info))
    del header["pretraining"], header["classes"]
    assert read_header(json.dumps(header), tmp_path) == info and info.pretraining is None


def test_backbone__cut_off_or_foreign_file(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    save_backbone(path, {"a": torch.ones(100)}, BackboneInfo("CLoVE", "resnet18"))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="expected a whole safetensors file, found: "):
        load_backbone(path)
    with pytest.raises(UserError, match="expected a whole safetensors file, found: No such file"):
        load_backbone(tmp_path / "none")
