"""Looks at archives before torch does: whether a zip is whole, and what else people bring."""

import gzip
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path
from shlex import quote

from pretrain.common.errors import UserError, refuse
from transfer.reading.architecture import some

PIECE = 1 << 20  # bytes read at once
# First bytes of files that must be unpacked first, and the command for it; FILE is the file, OUT
# what it becomes.
_COMPRESSED = ((b"\x1f\x8b", "gzip", "gunzip -c FILE > OUT"),
               (b"BZh", "bzip2", "bunzip2 -c FILE > OUT"),
               (b"\xfd7zXZ\x00", "xz", "unxz -c FILE > OUT"),
               (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d FILE -o OUT"),
               (b"7z\xbc\xaf\x27\x1c", "7z", "7z x FILE"),
               (b"Rar!", "rar", "unrar x FILE"))


def check(path: Path) -> None:
    """Compare every part of a zip with its checksum, which torch's reader does not do.

    Raises `UserError` for a part that has changed, for TorchScript and for numpy's archives, each
    with what to do. A file that does not begin like a zip is left to others.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            return
    try:
        with zipfile.ZipFile(path) as archive:
            problem = _another_zip(path, archive.namelist())
            for part in archive.infolist():
                if part.CRC:  # 0: torch was set to leave the checksums out
                    with archive.open(part) as content:
                        while content.read(PIECE):
                            pass
    except (NotImplementedError, RuntimeError) as error:  # encrypted, or packed in another way
        problem = (f"{path} is a zip file that cannot be read ({error}): unpack it, or save it "
                   "again with torch.save")
    except (zipfile.BadZipFile, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        problem = (f"{path} begins like a PyTorch file but is damaged or cut off "
                   f"({path.stat().st_size} bytes; {error}): download or copy it again")
    if problem:
        raise UserError(problem)


def _another_zip(path: Path, names: list[str]) -> str | None:
    """What to say of a zip that torch.save did not write; None for one that it wrote."""
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        return (f"{path} is a TorchScript file, which holds a program: "
                f"torch.save(torch.jit.load({str(path)!r}).state_dict(), FILE) writes the tensors "
                "alone")
    if names and all(name.endswith(".npy") for name in names):
        return (f"{path} is an archive of numpy arrays ({names[0].removesuffix('.npy')}, ...; "
                f"{len(names)} in all): torch.save({{name: torch.from_numpy(array) for name, array "
                f"in numpy.load({str(path)!r}).items()}}, FILE) makes it a state dict")
    if any(name.endswith("data.pkl") for name in names):
        return None
    return (f"{path} is a zip file, but none that torch.save wrote ({some(names, 3) or 'empty'}): "
            f"unpack it with `unzip {quote(str(path))}` and name the file in it")


def refuse_packed(path: Path) -> None:
    """Raises for a tar or a compressed file, with the command that unpacks it."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head[257:262] == b"ustar":
        try:
            with tarfile.open(path, "r:") as archive:
                names = archive.getnames()
        except (tarfile.TarError, OSError, EOFError) as error:
            raise UserError(f"{path} is a tar that is cut off ({path.stat().st_size} bytes; {error}): "
                            "download or copy it again") from None
        raise UserError(f"{path} is a tar ({some(names, 3) or 'empty'}): unpack it with "
                        f"`tar -xf {quote(str(path))}` and name the file in it")
    refuse((head.startswith(b"\x1f\x8b") and _inner(path)[257:262] == b"ustar",
            f"{path} is a tar packed with gzip: unpack it with `tar -xzf {quote(str(path))}` and "
            "name the file in it"))
    out = Path(f"{path}.unpacked")
    if path.suffix in (".gz", ".bz2", ".xz", ".zst"):
        out = path.with_suffix("")
    for begin, name, command in _COMPRESSED:
        command = command.replace("FILE", quote(str(path))).replace("OUT", quote(str(out)))
        refuse((head.startswith(begin),
                f"{path} is packed with {name}: unpack it with `{command}` and name the file that "
                "this makes"))


def _inner(path: Path) -> bytes:
    """The first bytes of what a gzip file holds; none when it is not whole."""
    try:
        with gzip.open(path) as file:
            return file.read(512)
    except (OSError, EOFError, zlib.error):
        return b""
