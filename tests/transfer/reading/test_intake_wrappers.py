"""The words that DistributedDataParallel, torch.compile and the like put into names change nothing."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from tests.transfer import dense_files, image_files, other_names, state_parts
from transfer.reading.intake import read_checkpoint
from transfer.reading.naming import WRAPPERS, without_wrappers


def before(name: str, word: str) -> str:
    return f"{word}.{name}"


def after_the_first_word(name: str, word: str) -> str:
    first, _, rest = name.partition(".")
    return f"{first}.{word}.{rest}" if rest else name


def in_each_block(name: str, word: str) -> str:
    """As torch.compile or FSDP around single blocks: `layer1.0._orig_mod.conv1.weight`."""
    words = name.split(".")
    stage = next((i for i, part in enumerate(words) if part.startswith("layer")), None)
    return name if stage is None else ".".join([*words[:stage + 2], word, *words[stage + 2:]])


def around_each_layer(name: str, word: str) -> str:
    rest, _, last = name.rpartition(".")
    return f"{rest}.{word}.{last}" if rest else name


def wrapped(content: Mapping[str, Any], place: Any, word: str) -> dict[str, Any]:
    """The same file with the word in the names of all its tensors."""
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return {place(name, word): value for name, value in content.items()}
    return {key: wrapped(value, place, word) if isinstance(value, Mapping) and key != "optimizer" else value
            for key, value in content.items()}


@pytest.fixture(scope="module")
def states():
    return state_parts.resnet("resnet18"), state_parts.resnet("resnet18", 2000)


FILES = {"clove": dense_files.clove, "moco": image_files.moco, "dino": image_files.dino,
         "children": image_files.lightly_example, "hugging face": other_names.hugging_face,
         "plain": lambda student, _teacher: dict(student)}


@pytest.mark.parametrize("place", [before, after_the_first_word, in_each_block, around_each_layer])
@pytest.mark.parametrize("file", FILES)
def test_read_checkpoint__wrapper_words_at_any_place(tmp_path, states, file, place):
    word = WRAPPERS[(list(FILES).index(file) + len(place.__name__)) % len(WRAPPERS)]
    content = FILES[file](*states)
    path, other = tmp_path / "plain" / "net.pth", tmp_path / "wrapped" / "net.pth"
    for target, what in ((path, content), (other, wrapped(content, place, word))):
        target.parent.mkdir()
        torch.save(what, target)
    plain, found = read_checkpoint(path), read_checkpoint(other)
    assert all(torch.equal(found.state[name], value) for name, value in plain.state.items())
    for field in ("family", "container", "method_from", "candidates", "notes"):
        assert getattr(found, field) == getattr(plain, field)
    assert (found.info.method, found.info.branch, len(found.left)) == (
        plain.info.method, plain.info.branch, len(plain.left))
    # What a user reads has the file's own names.
    names = set(wrapped(content, place, word)) | {
        name for value in wrapped(content, place, word).values() if isinstance(value, dict) for name in value}
    assert {name.rpartition("/")[2] for name in found.left} <= names


def test_read_checkpoint__several_words_at_once(tmp_path, states):
    name = "module._orig_mod.{}".format
    content = {in_each_block(in_each_block(name(key), "_fsdp_wrapped_module"), "_checkpoint_wrapped_module"): value
               for key, value in states[0].items()}
    torch.save({"model": content}, tmp_path / "a.pth")
    reading = read_checkpoint(tmp_path / "a.pth")
    assert all(torch.equal(reading.state[key], value) for key, value in states[0].items())
    assert (reading.address, reading.left_over) == ("model:module._orig_mod.", [])


def test_read_checkpoint__a_prefix_is_taken_with_and_without_the_words(tmp_path, states):
    content = {"net": state_parts.prefixed("module.a.", states[0]) | state_parts.prefixed("module.b.", states[1])}
    torch.save(content, tmp_path / "a.pth")
    for prefix in ("b.", "module.b.", "net:module.b.", "net:b."):
        reading = read_checkpoint(tmp_path / "a.pth", prefix=prefix)
        assert torch.equal(reading.state["bn1.bias"], states[1]["bn1.bias"])
        assert reading.address == "net:module.b."


def test_read_checkpoint__a_network_beside_its_wrapped_copy_is_not_mixed_with_it(tmp_path, states):
    torch.save(dict(states[0]) | state_parts.prefixed("module.", states[1]), tmp_path / "a.pth")
    reading = read_checkpoint(tmp_path / "a.pth")
    assert all(torch.equal(reading.state[key], value) for key, value in states[0].items())
    assert "The file holds another network, module., that was not read." in reading.notes


@pytest.mark.parametrize(("name", "plain"), [
    ("module.encoder.conv1.weight", "encoder.conv1.weight"), ("module.module.fc.bias", "fc.bias"),
    ("module_list.0.weight", "module_list.0.weight"), ("my_module.module.", "my_module."), ("module.", ""),
    ("target_net.module.0.", "target_net.0.")])
def test_without_wrappers(name, plain):
    assert without_wrappers(name) == plain
