"""Looks at a zip file before torch does: whether it is whole, and not one of the other things that are zip files."""

import lzma
import zipfile
import zlib
from pathlib import Path

from pretrain.errors import UserError

PIECE = 1 << 20  # bytes read at once


def check(path: Path) -> None:
    """Compare every part with the sum that the file itself has of it, which torch's reader does not do.

    Raises `UserError` for a part that has changed, for TorchScript and for numpy's archives, each with what to do.
    A file that does not begin like a zip is left to others.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            _known(path, [part.filename for part in parts])
            for part in parts:
                if part.CRC:  # 0: written by a torch that was told to leave the sums out
                    with archive.open(part) as content:
                        while content.read(PIECE):
                            pass
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, lzma.LZMAError,
            zlib.error) as error:
        raise UserError(f"{path} begins like a PyTorch file but is damaged or cut off ({path.stat().st_size} bytes; "
                        f"{error}): download or copy it again") from None


def _known(path: Path, names: list[str]) -> None:
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise UserError(f"{path} is a TorchScript file, which holds a program: "
                        f"torch.save(torch.jit.load({str(path)!r}).state_dict(), FILE) writes the tensors alone")
    if names and all(name.endswith(".npy") for name in names):
        raise UserError(f"{path} is an archive of numpy arrays ({names[0].removesuffix('.npy')}, ...; {len(names)} in "
                        "all): torch.save({name: torch.from_numpy(array) for name, array in numpy.load("
                        f"{str(path)!r}).items()}}, FILE) makes it a state dict")
    if not any(name.endswith("data.pkl") for name in names):
        raise UserError(f"{path} is a zip file, but none that torch.save wrote ({', '.join(names[:3]) or 'empty'}): "
                        "unpack it, or name another file")
