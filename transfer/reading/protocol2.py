"""Pickle protocols 3 to 5 for torch.load(weights_only=True), which knows protocol 2 alone.

Their instructions mostly do the same and are translated one by one; what has no counterpart is
refused. Nothing is built here: which classes a file may hold is decided by torch's unpickler and
its safe globals, as for every other file.
"""

import io
import pickle
import pickletools
import struct
from contextlib import AbstractContextManager
from typing import BinaryIO
from unittest import mock

from torch import _weights_only_unpickler

_SKIPPED = ("FRAME", "PROTO")
# torch builds lists and tuples alone: a set becomes one of them.
_FOR_SETS = {"EMPTY_SET": b"]", "ADDITEMS": b"e", "FROZENSET": b"t"}


class _Unpickler(_weights_only_unpickler.Unpickler):
    """torch's own, for a pickle of any protocol; `file` is left after its end."""

    def __init__(self, file: BinaryIO, *, encoding: str = "bytes") -> None:
        start = file.tell()
        head = file.read(2)
        file.seek(start)
        if head[:1] == b"\x80" and head[1] > 2:
            file = io.BytesIO(_in_protocol_2(file))
        super().__init__(file, encoding=encoding)


def any_protocol() -> AbstractContextManager:
    """Inside, torch.load(weights_only=True) reads every protocol, under all its other rules."""
    return mock.patch.object(_weights_only_unpickler, "Unpickler", _Unpickler)


def _in_protocol_2(file: BinaryIO) -> bytes:
    """The next pickle of a file, in protocol 2.

    Raises `pickle.UnpicklingError` for an instruction that has no counterpart there.
    """
    start = file.tell()
    steps = list(pickletools.genops(file))
    end = file.tell()
    file.seek(start)
    raw = file.read(end - start)
    ends = [position - start for _, _, position in steps[1:]] + [end - start]
    # Instruction and, where it pushes a text, that text: a class is named by two texts on the
    # stack.
    out: list[tuple[bytes, str | None]] = [(b"\x80\x02", None)]
    texts: dict[int, str] = {}  # those in the memo, which are repeated where they are used again
    put = 0
    for (step, argument, position), stop in zip(steps, ends, strict=True):
        if "UNICODE" in step.name:
            out.append((_text(argument), argument))
        elif isinstance(argument, bytes | bytearray):
            out.append((_bytes(argument), None))
        elif step.name == "MEMOIZE" or "PUT" in step.name:
            number = put if step.name == "MEMOIZE" else argument
            put += 1
            if out[-1][1] is None:
                out.append((b"r" + struct.pack("<I", number), None))
            else:
                texts[number] = out[-1][1]
        elif "GET" in step.name and argument in texts:
            out.append((_text(texts[argument]), texts[argument]))
        elif step.name == "STACK_GLOBAL":
            (_, module), (_, name) = out[-2:]
            del out[-2:]
            out.append((_global(module, name), None))
        elif step.name in _FOR_SETS:
            out.append((_FOR_SETS[step.name], None))
        elif step.name not in _SKIPPED:
            if step.proto > 2:
                raise pickle.UnpicklingError(f"{step.name} of pickle protocol {step.proto} is not "
                                             "known")
            out.append((raw[position - start:stop], None))
    return b"".join(instruction for instruction, _ in out)


def _text(text: str) -> bytes:
    coded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(coded)) + coded


def _bytes(value: bytes) -> bytes:
    """As Python writes bytes in protocol 2: a call of _codecs.encode."""
    return b"c_codecs\nencode\n" + _text(value.decode("latin1")) + _text("latin1") + b"\x86R"


def _global(module: str | None, name: str | None) -> bytes:
    if module is None or name is None or "\n" in module + name:
        raise pickle.UnpicklingError("the name of a class is not plain text")
    return f"c{module}\n{name}\n".encode()
