"""`clove fetch METHOD`: the published checkpoint of a method, or how to get it.

methods.yaml says where to get each, under which licence, and its checksum where one is known. A
download is checked against that and is whole or not there.
"""

import argparse
import difflib
import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import yaml
from tabulate import tabulate
from tqdm import tqdm

from pretrain.common.atomic import atomic_path, make_folder, sha256_file
from pretrain.common.errors import USER_ERROR, UserError, refuse

METHODS = Path(__file__).resolve().parent / "methods.yaml"
_CHUNK = 1 << 20  # bytes
_PATIENCE = 30  # seconds without a byte


@dataclass(frozen=True)
class Published:
    """One row of methods.yaml, which explains each field. Checksums may be their first digits."""

    name: str
    family: str
    epochs: int | None
    branch: str
    address: str | None
    steps: str | None
    licence: str
    sha256: str | None = None
    md5: str | None = None
    notes: str | None = None


def published() -> dict[str, Published]:
    """Every row of methods.yaml by its key."""
    rows = yaml.safe_load(METHODS.read_text(encoding="utf-8"))["methods"]
    return {key: Published(**row) for key, row in rows.items()}


def fetch(method: Published, output: Path) -> tuple[Path, str, bool]:
    """Download a checkpoint into the folder `output`; returns its path, SHA-256, and if it is new.

    A file that is there already is checked and kept. Raises `UserError` when the server cannot be
    reached or answers with something else, or the checksum differs; nothing is left then, and a
    file that was there stays.
    """
    path = output / PurePosixPath(urlsplit(method.address).path).name
    if path.exists():
        what = f"{path}, which is there already"
        return path, _checked(path, method, what, "remove it and fetch again"), False
    with _opened(method.address) as answer, atomic_path(path) as sibling:
        _download(answer, method, sibling)
        todo = "the file has changed or the download is damaged; nothing was kept"
        return path, _checked(sibling, method, method.address, todo), True


def _opened(address: str) -> http.client.HTTPResponse:
    # Some servers refuse the library's own name.
    request = urllib.request.Request(address, headers={"User-Agent": "clove-suite"})
    try:
        return urllib.request.urlopen(request, timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        problem = (f"{address} answered {error.code} {error.reason}: the file may have moved; look "
                   "for it at its authors' and give its path to inspect")
    except (OSError, http.client.HTTPException) as error:
        problem = (f"cannot reach {address} ({getattr(error, 'reason', error)}): go online, or "
                   "download it elsewhere and copy it here")
    raise UserError(problem)


def _download(answer: http.client.HTTPResponse, method: Published, path: Path) -> None:
    """Write the answer's body to `path` with a bar on stderr."""
    refuse((answer.headers.get_content_type() == "text/html",
            f"expected a checkpoint from {method.address}, found a web page: open the address in a "
            "browser"))
    bar = tqdm.wrapattr(answer, "read", total=answer.length, desc=method.name, disable=None)
    with open(path, "wb") as file, bar as body:
        try:
            shutil.copyfileobj(body, file, _CHUNK)
            whole = not answer.length  # what is still to come
        except (TimeoutError, ConnectionError, http.client.HTTPException):
            whole = False
    refuse((not whole, f"the download of {method.address} broke off after {path.stat().st_size} "
                       "bytes: run the same command again"))


def _checked(path: Path, method: Published, what: str, todo: str) -> str:
    """The file's SHA-256; `UserError` when it or the MD5 is not the known one."""
    sums = {"sha256": sha256_file(path)}
    if method.md5:
        sums["md5"] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    for kind, found in sums.items():
        expected = getattr(method, kind) or ""
        refuse((not found.startswith(expected.lower()),
                f"expected the {kind.upper()} {expected} of {what}, found {found}: {todo}"))
    return sums["sha256"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = ("Downloads the published checkpoint of a method and verifies its "
                          "checksum, or prints the steps where only a browser gets it. Each has "
                          "its own licence, which is shown.")
    parser.add_argument("method", nargs="?", metavar="METHOD", help="as --list names it")
    parser.add_argument("--output", default="checkpoints", metavar="DIR",
                        help="folder for it (default: checkpoints)")
    parser.add_argument("--list", action="store_true",
                        help="every method, its licence, and whether it can be fetched")


def run(args: argparse.Namespace) -> int:
    rows = published()
    if args.list:
        lines = [(key, row.name, row.epochs or "-", "fetch" if row.address else "by hand", row.licence)
                 for key, row in rows.items()]
        print(tabulate(lines, ("METHOD", "name", "epochs", "how", "licence"), tablefmt="plain"))
        return 0
    near = difflib.get_close_matches(args.method or "", rows, n=3, cutoff=0.4)
    todo = f"did you mean {', '.join(near)}?" if near else "choose one"
    refuse((args.method not in rows, f"expected a method of --list, found {args.method or 'none'}: "
                                     f"{todo}"))
    method, output = rows[args.method], Path(args.output)
    print(f"{args.method}: {method.name}, {method.epochs or 'unstated'} epochs; licence: "
          f"{method.licence}")
    if method.notes:
        print(f"note: {method.notes}")
    if method.address is None:
        print(f"It cannot be fetched: {method.steps}\nThen: clove inspect FILE")
        return USER_ERROR
    make_folder(output)
    path, sha256, is_new = fetch(method, output)
    known = "which is the one in methods.yaml"
    if not method.sha256:
        known = f"not known before: pin it as sha256 of {args.method} in {METHODS.parent.name}/{METHODS.name}"
    print(f"{'wrote' if is_new else 'there already:'} {path} ({path.stat().st_size / 1e6:.1f} MB)\n"
          f"sha256 {sha256}, {known}\nnext: clove inspect {path}")
    return 0
