"""`python -m benchmarks bundle FILE`: results, certificates, configs and tables in one archive for a reviewer.

The same results give the same bytes. With --anonymous no host, user or path of this machine is left in it, and the
archive is searched for them before it is written. `python -m benchmarks import FILE` reads it again.
"""

import argparse
import getpass
import gzip
import hashlib
import io
import json
import os
import re
import socket
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.make_tables import ROOT, read_tables
from benchmarks.probe_table import probes_text, read_probes
from benchmarks.render import csv_frame, markdown
from benchmarks.results import digest, read_results
from pretrain import __version__
from pretrain.atomic import atomic_path
from pretrain.errors import UserError

MANIFEST = "manifest.json"
# Two parts at least: "/" alone, fractions and dates are no paths.
PATH = re.compile(r"(?<![\w.:/<])(?:~|/[\w.@+-]+)(?:/[\w.@+-]+)+/?")


def build_parser() -> argparse.ArgumentParser:
    """The options of `python -m benchmarks bundle`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks bundle",
        description="One archive (.tar.gz) with results, certificates, configurations and tables.")
    parser.add_argument("file", type=Path, metavar="FILE", help="the archive, such as results.tar.gz")
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR",
                        help="folder that holds runs/ (default: the project's results/)")
    parser.add_argument("--anonymous", action="store_true", help="without host, user or path, for a blind review")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Write the archive; returns the exit code."""
    options = build_parser().parse_args(arguments)
    if not options.results.is_dir():
        raise UserError(f"expected a folder of results, found none at {options.results}; pass --results DIR")
    results, problems = read_results(options.results / "runs")
    if problems:
        raise UserError(f"{len(problems)} result files are not what they should be, first {problems[0]}: mend or "
                        "remove them, a bundle holds good results only")
    if not results:
        raise UserError(f"expected results to bundle, found none in {options.results / 'runs'}")
    probes, problems = read_probes(options.results / "probes")
    if problems:
        raise UserError(f"{len(problems)} probe files are not what they should be, first {problems[0]}: mend or remove "
                        "them, a bundle holds good results only")
    members = collect(options.results, results, probes, options.anonymous)
    with atomic_path(options.file) as sibling:
        sibling.write_bytes(archive(members))
    print(f"wrote {options.file}: {len(results)} results, {len(members)} files"
          + (", without host, user or path" if options.anonymous else ""))
    return 0


def collect(folder: Path, results: list[dict], probes: list[dict], anonymous: bool) -> dict[str, bytes]:
    """{name in the archive: content}. UserError when an anonymous one would still tell who made it."""
    if anonymous:
        results, probes = ([_anonymous(one) for one in several] for several in (results, probes))
    members: dict[str, bytes] = {}
    for number, result in enumerate(sorted(results, key=lambda one: one["digest"])):
        members[f"runs/{number:05d}-{result['digest'][:8]}.json"] = _json(result)
        members[f"configs/{result['config_sha256'][:16]}.json"] = _json(result["config"])
        conversion = result["weights"].get("conversion")
        if conversion:
            members[f"certificates/{result['weights']['pkl_sha256'][:16]}.json"] = _json(conversion)
    for number, probe in enumerate(sorted(probes, key=lambda one: one["digest"])):
        members[f"probes/{number:05d}-{probe['digest'][:8]}.json"] = _json(probe)
    tables = read_tables(folder, ROOT / "results" / "reported").tables
    members["tables/tables.md"] = "\n".join(map(markdown, tables)).encode()
    if probes:
        members["tables/frozen_backbone_probes.md"] = probes_text(probes).encode()
    members["tables/tables.csv"] = csv_frame(tables).to_csv(index=False).encode()
    for path in sorted((ROOT / "results" / "reported").glob("*.csv")):
        members[f"reported/{path.name}"] = path.read_bytes()
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(members.items())}
    members[MANIFEST] = _json({"tool_version": __version__, "anonymous": anonymous, "sha256": hashes})
    if anonymous:
        _refuse_traces(members)
    return members


def archive(members: dict[str, bytes]) -> bytes:
    """The members as .tar.gz, with no time, owner or order that could differ."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in sorted(members.items()):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def read_archive(path: Path) -> dict[str, bytes]:
    """{name: content} of a bundle whose manifest fits every file; nothing is unpacked. UserError for anything else."""
    try:
        with tarfile.open(path, "r:gz") as tar:
            members = {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}
        hashes = json.loads(members.pop(MANIFEST))["sha256"]
    except (tarfile.TarError, OSError, EOFError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a bundle of this suite ({error}): expected a file that `python -m benchmarks "
                        "bundle` wrote") from None
    found = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    if found != hashes:
        changed = sorted(name for name in found.keys() | hashes.keys() if found.get(name) != hashes.get(name))
        raise UserError(f"{path}: {len(changed)} of {len(hashes)} files do not fit the manifest, first {changed[0]}: "
                        "the bundle was changed or damaged; ask for it again")
    return members


def _anonymous(result: dict) -> dict:
    clean = _scrubbed(result)
    clean["anonymous"] = True
    clean["digest"] = digest(clean)
    return clean


def _scrubbed(value: Any) -> Any:
    if isinstance(value, dict):
        return {_clean(key): _scrubbed(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_scrubbed(inside) for inside in value]
    return _clean(value) if isinstance(value, str) else value


def _clean(text: str) -> str:
    """A text whose paths keep their last part only, without host and user."""
    if text.startswith(("/", "~")):  # a path as a whole, whatever letters it has
        text = "<path>/" + text.rstrip("/").rsplit("/", 1)[-1]
    text = PATH.sub(lambda match: "<path>/" + match[0].rstrip("/").rsplit("/", 1)[-1], text)
    for trace in _traces():
        text = re.sub(rf"(?<!\w){re.escape(trace)}(?!\w)", "<name>", text)
    return text


def _traces() -> Iterable[str]:
    """Names that tell who and where: user (root tells nothing), host with and without its domain, home."""
    found = {os.environ.get("USER", ""), socket.gethostname(), socket.gethostname().partition(".")[0],
             os.path.expanduser("~"), str(ROOT)}
    with suppress(KeyError, OSError):  # no user of that number
        found.add(getpass.getuser())
    return sorted((name for name in found if len(name) > 1 and name not in ("root", "localhost", "/root")),
                  key=len, reverse=True)


def _refuse_traces(members: dict[str, bytes]) -> None:
    for name, content in members.items():
        for trace in _found_traces(content.decode("utf-8")):
            raise UserError(f"{name} would still hold {trace!r}: an anonymous bundle must not; change the method's or "
                            "dataset's name and try again")


def _found_traces(text: str) -> Iterator[str]:
    for trace in _traces():
        if re.search(rf"(?<!\w){re.escape(trace)}(?!\w)", text):
            yield trace


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
