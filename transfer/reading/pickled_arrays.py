"""Pickles of numpy arrays, numbers, text and containers, read without running code from them."""

import datetime
import pickle
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """How Python 3 pickles bytes for protocol 2; any other codec is refused."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


def _plain_dict(*_: Any) -> dict:
    """What a defaultdict becomes: nothing here asks it for a key that it has not."""
    return {}


def _path_as_text(*parts: str) -> str:
    """A path on the machine that wrote the file: nothing here follows it."""
    return str(PurePosixPath(*parts))


_OF_NUMPY = {"_reconstruct": multiarray._reconstruct, "scalar": multiarray.scalar,
             "ndarray": np.ndarray, "dtype": np.dtype, "_frombuffer": numeric._frombuffer}
# What is built, by the name in the file. Files of numpy 1 say numpy.core.
BUILT = {"collections.OrderedDict": OrderedDict, "_codecs.encode": _latin1_bytes}
for _module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric",
                "numpy._core.numeric"):
    for _name, _value in _OF_NUMPY.items():
        BUILT[f"{_module}.{_name}"] = _value
# What trainings keep beside the network: logs, times, folders.
BUILT["collections.defaultdict"] = _plain_dict
for _type in (bool, dict, float, int, list, str):  # what a defaultdict begins with
    for _module in ("builtins", "__builtin__"):
        BUILT[f"{_module}.{_type.__name__}"] = _type
for _type in (datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone):
    BUILT[f"datetime.{_type.__name__}"] = _type
for _module in ("pathlib", "pathlib._local"):  # the latter since Python 3.13
    for _name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"):
        BUILT[f"{_module}.{_name}"] = _path_as_text


class _ArraysOnly(pickle.Unpickler):
    """Refuses everything that is not in `BUILT` by name, before it exists."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in BUILT:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, expected arrays alone")
        return BUILT[f"{module}.{name}"]


def read_arrays(path: str | Path) -> Any:
    """What a pickle of arrays holds.

    Raises `pickle.UnpicklingError` for any other class; for a damaged pickle any error.
    """
    with open(path, "rb") as file:
        return _ArraysOnly(file, encoding="latin1").load()  # what Python 2 wrote, as the MSRA files, is bytes
