"""Opens a checkpoint file without running code from it.

torch's files go through its weights_only loading with a short list of further classes; bare
pickles, as the MSRA and detectron2 model zoos have them, through an unpickler that can build numpy
arrays and nothing else. torch's loader knows only pickle protocol 2: other protocols are translated
into that one (`protocol2.py`) and meet the same rules.
"""

import argparse
import pickle
import re
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch.serialization import safe_globals

from pretrain.common.errors import UserError, refuse
from transfer.reading import archive, protocol2
from transfer.reading.pickled_arrays import BUILT, read_arrays

ZIP, OLD, PICKLE, SAFETENSORS = "torch", "torch, before version 1.6", "pickle of arrays", "safetensors"

# What weights_only loading may build beside tensors.
_ALLOWED = [argparse.Namespace, *((value, name) for name, value in BUILT.items()),
            *(type(np.dtype(code)) for code in "?bBhHiIlLqQefdSU")]
# torch.serialization.MAGIC_NUMBER as the first pickle of the file; from protocol 4 on it stands in
# a frame.
_OLD_TORCH = re.compile(rb"\x80.(?:\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", re.DOTALL)

# How the readers of pickles say that a length does not fit.
_CUT_OFF = (r"truncated|unexpected EOF|ran out of|unexpected end|remain$|not enough data|"
            r"exhausted before")


@dataclass(frozen=True)
class Opened:
    """What a file holds, on the CPU, the kind of file, and the metadata of a safetensors file."""

    content: dict[Any, Any]
    container: str
    metadata: dict[str, str] = field(default_factory=dict)


def load(path: Path, trust: bool = False) -> Opened:
    """Open a checkpoint file once.

    `trust` lets the file run its own code while it is read; without it only tensors, arrays and
    plain values are built. Raises `UserError` when the file is missing, unreadable, not a
    dictionary, or holds another class.
    """
    refuse((path.is_dir(), f"expected a checkpoint file, found the folder {path}: name the file in "
                           "it"),
           (not path.exists(), f"{path}: not found; check the path"))
    head = _first_bytes(path)
    refuse((not head, f"{path} is empty (0 bytes): download or copy it again"))
    if head[8:9] != b"{":
        archive.refuse_packed(path)
    kind = kind_of(path)
    if kind == ZIP:
        archive.check(path)
    if trust and kind != SAFETENSORS:
        print(f"warning: --trust: {path} may run any code while it is read", file=sys.stderr)
    try:
        opened = _opened(path, kind, trust)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(_why_unreadable(path, error, trust)) from None
    refuse((not isinstance(opened.content, dict),
            f"expected a dictionary in {path}, found {type(opened.content).__name__}: save the "
            "network's state_dict with torch.save"))
    return opened


def _first_bytes(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(60)


def kind_of(path: Path) -> str:
    """What kind of file it is, by its first bytes; the name decides only where they say nothing."""
    head = _first_bytes(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":  # eight bytes of length, then JSON
        return SAFETENSORS
    if _OLD_TORCH.match(head):
        return OLD
    if head.startswith(b"\x80") or (path.suffix == ".pkl" and not head.startswith(b"PK")):
        return PICKLE
    return ZIP


def _opened(path: Path, kind: str, trust: bool) -> Opened:
    if kind == SAFETENSORS:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return Opened({name: file.get_tensor(name) for name in names}, kind, file.metadata() or {})
    if kind == PICKLE and trust:
        content = pickle.loads(path.read_bytes(), encoding="latin1")
    elif kind == PICKLE:
        content = read_arrays(path)
    else:
        with safe_globals(_ALLOWED), protocol2.any_protocol(), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=not trust)
    if isinstance(content, torch.nn.Module):  # a whole network, pickled: only reached with trust
        content = content.state_dict()
    return Opened(content, kind)


def _why_unreadable(path: Path, error: Exception, trust: bool) -> str:
    """What to do about a file that did not open.

    "Damaged" or "not whole" only where a checksum or a length says so: the checksums of a zip were
    compared before.
    """
    if isinstance(error, SafetensorError):
        return f"{path} is not a whole safetensors file ({error}): make it again"
    if isinstance(error, ImportError | AttributeError) and trust:
        return (f"{path} needs code that is not installed here ({error}): install it, or save the "
                "state dict alone with torch.save")
    # torch's words, or those of `pickled_arrays`
    refused = re.search(r"(?:GLOBAL|it holds) ([\w.]+)", str(error))
    if refused:
        return (f"{path} holds an object of the class {refused[1]}; expected only tensors, numbers "
                "and text, because anything else can run code: add --trust if you know where the "
                "file comes from")
    head = _first_bytes(path)
    if not head.startswith((b"PK", b"\x80")):
        return _other_file(path, head)
    if isinstance(error, EOFError) or re.search(_CUT_OFF, str(error)):
        return (f"{path} is a Python pickle, but not a whole one ({path.stat().st_size} bytes): "
                "download it again, or save the state dict with torch.save")
    what = "PyTorch file" if head.startswith(b"PK") else "Python pickle"
    own_words = re.search(r"WeightsUnpickler error:\s+(.+)", str(error))  # torch says a page around it
    said = own_words[1] if own_words else str(error).partition("\n")[0] or type(error).__name__
    return (f"{path} is a {what} that cannot be read here ({said[:200]}): save the state dict "
            "alone with torch.save")


def _other_file(path: Path, head: bytes) -> str:
    text = head.decode("ascii", "replace")
    begins, todo = "", "download it again or name another file"
    shown = text.split("\n")[0]
    if shown.isprintable() and shown.isascii():
        begins = f" (it begins with {shown[:40]!r})"
    if text.startswith("version https://git-lfs"):
        todo = "it is the pointer that Git LFS leaves in its place, `git lfs pull` downloads the file"
    elif text.lstrip().lower().startswith(("<!doctype", "<html")):
        todo = "it is a web page, open the address in a browser and save the file itself"
    return f"{path} is neither a PyTorch nor a safetensors file{begins}: {todo}"
