"""`python -m transfer fetch METHOD`: the published checkpoint of a method, or how a person gets it.

transfer/methods.yaml says where each is had, under which licence, and its sum where one is known. A download is
checked against that and is whole or not there.
"""

import argparse
import difflib
import hashlib
import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import yaml
from tqdm import tqdm

from pretrain.common.atomic import atomic_path, sha256_file
from pretrain.common.errors import USER_ERROR, UserError

METHODS = Path(__file__).resolve().parent / "methods.yaml"
_CHUNK, _PATIENCE = 1 << 20, 30  # bytes; seconds without a byte


@dataclass(frozen=True)
class Published:
    """One row of methods.yaml, which says what each field means. Sums may be their first digits."""

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


def published(path: Path | None = None) -> dict[str, Published]:
    """Every row of methods.yaml by its key. Raises `UserError` when a row has a field too many or too few."""
    path = path or METHODS
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))["methods"]
    for key, row in rows.items():
        known = {field.name for field in fields(Published)}
        needed = known - {"sha256", "md5", "notes"}
        if not needed <= set(row) <= known:
            raise UserError(f"expected the fields {', '.join(sorted(known))} in {key} of {path}, found "
                            f"{', '.join(row)}: mend the row")
    return {key: Published(**row) for key, row in rows.items()}


def fetch(method: Published, output: Path) -> tuple[Path, str, bool]:
    """Download a checkpoint into the folder `output`; returns its path, its SHA-256, and whether it is new.

    A file that is there already is checked and kept. Raises `UserError` when the server cannot be reached or answers
    with something else, or the sum differs; nothing is left behind then, and a file that was there stays.
    """
    assert method.address is not None
    path = output / PurePosixPath(urlsplit(method.address).path).name
    if path.exists():
        return path, _checked(path, method, f"{path}, which is there already", "remove it and fetch again"), False
    with _opened(method.address) as answer, atomic_path(path) as sibling:
        _download(answer, method, sibling)
        sha256 = _checked(sibling, method, method.address,
                          "the file has changed or the download is damaged; nothing was kept")
    return path, sha256, True


def _opened(address: str) -> http.client.HTTPResponse:
    if urlsplit(address).scheme not in ("http", "https"):
        raise UserError(f"expected an http or https address, found {address}: fix transfer/methods.yaml")
    try:
        # Some servers refuse the library's own name.
        return urllib.request.urlopen(urllib.request.Request(address, headers={"User-Agent": "clove-suite"}),
                                      timeout=_PATIENCE)
    except urllib.error.HTTPError as error:
        raise UserError(f"{address} answered {error.code} {error.reason}: the file may have moved; look for it at its "
                        "authors' and give its path to inspect") from None
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"cannot reach {address} ({getattr(error, 'reason', error)}): go online, or download it "
                        "elsewhere and copy it here") from None


def _download(answer: http.client.HTTPResponse, method: Published, path: Path) -> None:
    """Write the answer's body to `path` with a bar on stderr."""
    address = method.address
    if answer.headers.get_content_type() == "text/html":
        raise UserError(f"expected a checkpoint from {address}, found a web page: open the address in a browser")
    length = answer.headers.get("Content-Length")
    total = int(length) if length and length.isdigit() else None
    received = 0
    with open(path, "wb") as file, tqdm(total=total, unit="B", unit_scale=True, desc=method.name,
                                        disable=None) as bar:
        while True:
            try:
                chunk = answer.read(_CHUNK)
            except (TimeoutError, ConnectionError, http.client.HTTPException) as error:
                raise UserError(f"the download of {address} broke off after {received} bytes ({error}): "
                                "start again") from None
            if not chunk:
                break
            file.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))
    if total is not None and received != total:
        raise UserError(f"expected {total} bytes from {address}, found {received}: the download broke off; start again")


def _checked(path: Path, method: Published, what: str, todo: str) -> str:
    """The file's SHA-256; `UserError` when a sum that is known is another one."""
    sums = {"sha256": sha256_file(path)}
    if method.md5:
        sums["md5"] = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    for kind, found in sums.items():
        expected = getattr(method, kind)
        if expected and not found.startswith(expected.lower()):
            raise UserError(f"expected the {kind.upper()} {expected} of {what}, found {found}: {todo}")
    return sums["sha256"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m transfer fetch`."""
    parser.description = ("Downloads the published checkpoint of a method and checks its sum, or says the steps where "
                          "only a browser gets it. Each has its own licence, which is shown.")
    parser.add_argument("method", nargs="?", metavar="METHOD", help="as --list names it")
    parser.add_argument("--output", default="checkpoints", metavar="DIR", help="folder for it (default: checkpoints)")
    parser.add_argument("--list", action="store_true", help="every method, its licence, and whether it can be fetched")


def run(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    rows = published()
    if args.list:
        print(_table(rows))
        return 0
    if args.method not in rows:
        near = difflib.get_close_matches(args.method or "", rows, n=3, cutoff=0.4)
        raise UserError(f"expected a method of --list, found {args.method or 'none'}"
                        + (f": did you mean {', '.join(near)}?" if near else ": choose one"))
    method, output = rows[args.method], Path(args.output)
    print(f"{args.method}: {method.name}, {method.epochs or 'unstated'} epochs; licence: {method.licence}")
    print(f"note: {method.notes}" if method.notes else "", end="\n" if method.notes else "")
    if method.address is None:
        print(f"It cannot be fetched: {method.steps}\nThen: python -m transfer inspect FILE")
        return USER_ERROR
    if output.exists() and not output.is_dir():
        raise UserError(f"expected a folder for --output, found the file {output}: name another one")
    path, sha256, is_new = fetch(method, output)
    known = ("which is the one in methods.yaml" if method.sha256 else
             f"not known before: pin it as sha256 of {args.method} in {METHODS.parent.name}/{METHODS.name}")
    print(f"{'wrote' if is_new else 'there already:'} {path} ({path.stat().st_size / 1e6:.1f} MB)\n"
          f"sha256 {sha256}, {known}\nnext: python -m transfer inspect {path}")
    return 0


def _table(rows: dict[str, Published]) -> str:
    widths = (max(map(len, rows)), max(len(row.name) for row in rows.values()))
    lines = [f"{'METHOD':<{widths[0]}}  {'name':<{widths[1]}}  epochs  {'to be had':<10}  licence"]
    for key, row in rows.items():
        how = "fetch" if row.address else "by hand"
        lines.append(f"{key:<{widths[0]}}  {row.name:<{widths[1]}}  {row.epochs or '-':>6}  {how:<10}  {row.licence}")
    return "\n".join(lines)
