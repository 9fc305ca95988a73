"""Opens a stranger's checkpoint file without running code from it.

torch's files go through its weights_only loading with a short list of further classes; bare pickles, as the MSRA and
detectron2 model zoos have them, through an unpickler that can build numpy arrays and nothing else.
"""

import argparse
import codecs
import pickle
import re
import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from numpy._core import numeric as numpy_numeric
from safetensors import SafetensorError, safe_open
from torch.serialization import safe_globals

from pretrain.errors import UserError
from transfer import archive

ZIP, OLD, PICKLE, SAFETENSORS = "torch", "torch, before version 1.6", "pickle of arrays", "safetensors"

# What weights_only loading may build beside tensors. Both numpy spellings: files of numpy 1 say numpy.core.
_ALLOWED = [argparse.Namespace, np.ndarray, np.dtype, codecs.encode,
            multiarray._reconstruct, (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
            multiarray.scalar, (multiarray.scalar, "numpy.core.multiarray.scalar"),
            *(type(np.dtype(code)) for code in "?bBhilqefd")]
_OLD_TORCH = re.compile(rb"\x80.\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)  # torch.serialization.MAGIC_NUMBER


def load(path: Path, trust: bool = False) -> tuple[dict[Any, Any], str]:
    """The dictionary in a checkpoint file, on the CPU, and what kind of file it is.

    `trust` lets the file run its own code while it is read; without it only tensors, arrays and plain values are built.
    Raises `UserError` when the file is missing, unreadable, no dictionary, or holds another class.
    """
    kind = kind_of(path)
    if kind == SAFETENSORS:
        return _safetensors(path), kind
    if kind == ZIP:
        archive.check(path)
    if trust:
        print(f"warning: --trust: {path} may run any code while it is read", file=sys.stderr)
    try:
        if kind == PICKLE:
            with open(path, "rb") as file:
                # latin1: what Python 2 wrote, as the MSRA files, are strings of bytes.
                content = (pickle.Unpickler if trust else _ArraysOnly)(file, encoding="latin1").load()
        else:
            with safe_globals(_ALLOWED), warnings.catch_warnings(action="ignore"):  # about pickle protocols
                content = torch.load(path, map_location="cpu", weights_only=not trust)
    except (PermissionError, MemoryError, UserError):
        raise
    except Exception as error:  # a damaged pickle can raise anything
        if isinstance(error, ImportError | AttributeError):  # only with trust: the file's own code is not installed
            raise UserError(f"{path} needs code that is not here ({error}): install it, or save the state dict "
                            "alone with torch.save") from None
        raise UserError(_why_unreadable(path, error)) from None
    if isinstance(content, torch.nn.Module):  # a whole network, pickled: only reached with trust
        content = content.state_dict()
    if not isinstance(content, dict):
        raise UserError(f"expected a dictionary in {path}, found {type(content).__name__}: "
                        "save the network's state_dict with torch.save")
    return content, kind


def kind_of(path: Path) -> str:
    """What kind of file it is, by its first bytes; the name alone decides only when they say nothing.

    Missing, empty and odd files end here, with a `UserError`.
    """
    head = _first_bytes(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":  # eight bytes of length, then JSON
        return SAFETENSORS
    if _OLD_TORCH.match(head):
        return OLD
    if head.startswith(b"\x80") or (path.suffix == ".pkl" and not head.startswith(b"PK")):
        return PICKLE
    return ZIP


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise UserError(f"expected a checkpoint file, found the folder {path}: name the file in it")
    try:
        with open(path, "rb") as file:
            head = file.read(40)
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file") from None
    if not head:
        raise UserError(f"{path} is empty (0 bytes): download or copy it again")
    return head


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): make it again") from None


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """How Python 3 pickles bytes for protocol 2; any other codec would be a stranger's choice."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


_NUMPY_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric",
                  "numpy._core.numeric")
_NUMPY = {"_reconstruct": multiarray._reconstruct, "scalar": multiarray.scalar, "ndarray": np.ndarray,
          "dtype": np.dtype, "_frombuffer": numpy_numeric._frombuffer}


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy arrays, numbers, text and containers. Everything else is refused by name, before it exists."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _NUMPY_MODULES and name in _NUMPY:
            return _NUMPY[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")


def _why_unreadable(path: Path, error: Exception) -> str:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused:
        return (f"{path} holds an object of the class {refused[1]}; expected only tensors, numbers and text, because "
                "anything else can run code: add --trust if you know where the file comes from")
    head = _first_bytes(path)
    if head.startswith(b"PK"):
        return (f"{path} begins like a PyTorch file but is damaged or cut off ({path.stat().st_size} bytes): "
                "download or copy it again")
    if head.startswith(b"\x80"):
        return (f"{path} is a Python pickle, but not a whole one ({path.stat().st_size} bytes): "
                "download it again, or save the state dict with torch.save")
    shown = head.decode("ascii", "replace").split("\n")[0]
    begins = f" (it begins with {shown!r})" if shown.isprintable() and shown.isascii() else ""
    return f"{path} is neither a PyTorch nor a safetensors file{begins}: download it again or name another file"
