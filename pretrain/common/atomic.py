"""Files that are whole or absent: written beside their place, then renamed. Folders to write them in."""

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretrain.common.errors import UserError

NO_SPACE = ("os error 28", "No space left", "PytorchStreamWriter failed", "iostream error", "unexpected pos")


def make_folder(folder: Path) -> None:
    """Make the folder and those above it. Raises `UserError` when that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: expected a folder, found that it cannot be made ({error.strerror}); "
                        "choose another --output") from None


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a sibling path to write to; it takes the place of `path` when the block ends without an
    error.

    A full disk is an `OSError` with ENOSPC for every writer: those of safetensors and torch raise
    errors of their own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept at the end: writers such as torch.save and matplotlib look at it.
    # Random: two machines on one network disk can have the same process number.
    sibling = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        yield sibling
        with open(sibling, "rb") as written:
            os.fsync(written.fileno())
        os.replace(sibling, path)
    except Exception as error:
        if not isinstance(error, OSError) and any(text in str(error) for text in NO_SPACE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        sibling.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    with atomic_path(path) as sibling:
        sibling.write_text(text, encoding="utf-8")


def sha256_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
