"""`clove bundle FILE`: results, certificates, configs and tables in one archive for a reviewer.

The same results give the same bytes. With --anonymous it holds only what
benchmarks/sharing/anonymous.py lists. `clove import FILE` reads it again.
"""

import argparse
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.formats.all_tables import read_tables, write_tables
from benchmarks.records.record_kinds import KINDS, Records, parse_members, put
from benchmarks.records.results import read_sealed, weights_sha256
from benchmarks.sharing.anonymous import PUBLIC_TASKS, Anonymiser
from pretrain import PLACE, PRINTED, __version__
from pretrain.common.atomic import atomic_path
from pretrain.common.errors import UserError, refuse
from transfer.tasks import TASKS

MANIFEST = "manifest.json"
LARGEST = 2 ** 30  # bytes of all files: 10,000 results are a tenth of it
TABLES = ("tables.md", "tables.csv", "frozen_backbone_probes.md")
PUBLIC_TABLES = {TASKS[name].table.name for name in PUBLIC_TASKS}


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove bundle`."""
    parser = argparse.ArgumentParser(
        prog="clove bundle",
        description="One archive (.tar.gz) with results, certificates, configurations and tables.")
    parser.add_argument("file", type=Path, metavar="FILE", help="the archive, such as results.tar.gz")
    parser.add_argument("--results", type=Path, default=PLACE / "results", metavar="DIR",
                        help="folder that holds runs/ (default: the project's results/)")
    parser.add_argument("--anonymous", action="store_true",
                        help="for a blind review: numbers, hashes and public names alone")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Write the archive; returns the exit code."""
    options = build_parser().parse_args(arguments)
    above = next(parent for parent in options.file.absolute().parents if parent.exists())
    refuse(
        (options.file.is_dir(), f"expected a file to write, such as {options.file / 'results.tar.gz'}, found the "
                                f"folder {options.file}"),
        (not above.is_dir(), f"{options.file} cannot be written: {above} is not a folder; choose another place"),
        (not options.results.is_dir(), f"expected a folder of results, found none at {options.results}; "
                                       "pass --results DIR"))
    records = _read(options.results)
    manifest: dict[str, Any] = {"anonymous": False}
    if options.anonymous:
        records, manifest = _anonymous(records)
    members = collect(records, manifest)
    with atomic_path(options.file) as sibling:
        sibling.write_bytes(archive(members))
    counts = []
    for kind, several in records.items():
        if kind == "runs" or several:
            counts.append(f"{len(several)} {KINDS[kind].plural}")
    print(f"wrote {options.file}: {', '.join(counts)}, {len(members)} files")
    return 0


def _read(folder: Path) -> Records:
    records: Records = {}
    for name, kind in KINDS.items():
        records[name], problems = read_sealed(folder / name, kind.check)
        if problems:
            raise UserError(f"expected good {kind.word} files, found {len(problems)} with problems, first "
                            f"{problems[0]}; fix or remove them")
    refuse((not any(records.values()), f"expected results to bundle, found none in {folder / 'runs'}"))
    return records


def _anonymous(records: Records) -> tuple[Records, dict[str, Any]]:
    """(what an anonymous bundle may hold of the records, what its manifest says of that); prints
    what the letters mean. UserError when that is nothing."""
    own, missing = Anonymiser(), 0
    kept: Records = {}
    for kind, several in records.items():
        kept[kind] = []
        for record in _by_digest(several):
            clean = own.record(kind, record)
            if clean is None:
                missing += 1
            else:
                kept[kind].append(clean)
    refuse((not any(kept.values()),
            f"expected a result of {', '.join(PUBLIC_TASKS)} to bundle anonymously, found none; a bundle "
            "with other tasks needs their names, so make it without --anonymous"))
    for what in ("Method", "Dataset"):
        for name, letter in own.letters.get(what, {}).items():
            print(f"{letter}: {name} (only said here, not in the bundle)")
    print(f"left out {own.left_out} values that are not on the list of benchmarks/sharing/anonymous.py")
    if missing:
        print(f"warning: left out {missing} records whose task or metrics are not public", file=sys.stderr)
    return kept, {"anonymous": True, "left_out_values": own.left_out, "left_out_records": missing}


def _by_digest(records: list[dict]) -> list[dict]:
    return sorted(records, key=lambda one: one["digest"])


def collect(records: Records, manifest: dict[str, Any]) -> dict[str, bytes]:
    """{name in the archive: content}; `manifest`: what its manifest.json says besides versions and
    hashes."""
    members: dict[str, bytes] = {}
    for kind, several in records.items():
        for number, record in enumerate(_by_digest(several)):
            members[f"{kind}/{number:05d}-{record['digest'][:8]}.json"] = _json(record)
    for result in _by_digest(records["runs"]):
        members[f"configs/{result['config_sha256'][:16]}.json"] = _json(result["config"])
        if conversion := result["weights"].get("conversion"):
            of = weights_sha256(result) or hashlib.sha256(_json(conversion)).hexdigest()
            members[f"certificates/{of[:16]}.json"] = _json(conversion)
    for path in sorted((PRINTED / "reported").glob("*.csv")):
        if not manifest["anonymous"] or path.stem in PUBLIC_TABLES:
            members[f"reported/{path.name}"] = path.read_bytes()
    members |= _tables(members)
    members[MANIFEST] = _json({"tool_version": __version__, "sha256": _hashes(members), **manifest})
    return members


def _tables(members: dict[str, bytes]) -> dict[str, bytes]:
    """The tables that an import of these members elsewhere will show: made from such an import, so
    nothing else is."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for kind, several in parse_members(members).items():
            for record in several:
                put(folder, kind, record)
        (folder / "reported").mkdir()
        for path, content in members.items():
            if path.startswith("reported/"):
                (folder / path).write_bytes(content)
        found = read_tables(folder, folder / "reported")
        write_tables(found.tables, folder / "tables", found.probes)
        tables = {}
        for name in TABLES:
            if (folder / "tables" / name).is_file():
                tables[f"tables/{name}"] = (folder / "tables" / name).read_bytes()
        return tables


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
    """{name: content} of a bundle whose manifest fits every file; nothing is unpacked. UserError
    for anything else."""
    try:
        with tarfile.open(path, "r:gz") as tar:
            members, total = {}, 0
            for entry in tar:
                total += entry.size
                if total > LARGEST:
                    raise ValueError(f"it unpacks to more than {LARGEST // 2**30} GiB")
                if entry.isfile():
                    members[entry.name] = tar.extractfile(entry).read()
        hashes = json.loads(members.pop(MANIFEST))["sha256"]
        if not isinstance(hashes, dict):
            raise TypeError(f"its {MANIFEST} has no mapping of hashes")
    except (tarfile.TarError, zlib.error, OSError, EOFError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a bundle of this suite ({error}): expected a file that `clove "
                        "bundle` wrote") from None
    found = _hashes(members)
    if found != hashes:
        changed = sorted(name for name in found.keys() | hashes.keys() if found.get(name) != hashes.get(name))
        raise UserError(f"{path}: {len(changed)} of {len(hashes)} files do not fit the manifest, first {changed[0]}: "
                        "the bundle was changed or damaged; ask for it again")
    return members


def _hashes(members: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()
