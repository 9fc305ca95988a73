"""`python -m transfer inspect FILE`: what a checkpoint file is, before anything is done with it.

The JSON object of --json has these keys, of which none will change its meaning under schema 1:

schema, file, bytes, sha256: the file. container: kind of file. family: the published layout, or "unknown layout".
method, method_from ("layout", "header", "sum" or "file name"), candidates: methods that may have written a file whose
layout proves none.
branch ("student", "teacher", "single"), branches (branch -> "PLACE:PREFIX", the default first), address.
epochs (null: not stored). architecture, standard (true for ResNet-50 alone). read, expected: numbers of tensors.
left_over (prefix -> number), left_why (prefix -> reason), fpn (names). pixels (channel_order; mean and std of
intensities from 0 to 1).
stride_in_1x1. notes.

When it cannot be read, or is not clear which network is meant: schema, file, error, and parts (address, tensors,
network; empty where nothing was read).
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from pretrain.common.architectures import ARCHITECTURES, STANDARD
from pretrain.common.errors import USER_ERROR, UserError
from transfer.reading.architecture import expected_shapes, some
from transfer.reading.arguments import add_reading_arguments
from transfer.reading.families import FAMILIES
from transfer.reading.intake import NOT_OF_THE_RESNET, Reading, one_of, read_checkpoint
from transfer.reading.network_choice import OWN_FAMILY
from transfer.reading.networks import Choice, LayoutError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m transfer inspect`."""
    names = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
    parser.description = ("Says what a checkpoint file is: layout, method, networks, pixel format, tensors. Known "
                          f"layouts: {names}, and our own {OWN_FAMILY}.")
    parser.add_argument("file", metavar="FILE", help="the checkpoint")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    path = Path(args.file)
    try:
        reading = read_checkpoint(path, args.branch, args.trust, args.prefix)
    except UserError as error:
        choices = error.choices if isinstance(error, LayoutError) else ()
        if args.json:
            parts = [{"address": part.address, "tensors": part.tensors, "network": part.title or None}
                     for part in choices]
            print(json.dumps({"schema": 1, "file": path.name, "error": str(error), "parts": parts}, indent=1))
        else:
            print(f"error: {error}", file=sys.stderr)
            print(parts_text(choices), end="")
        return USER_ERROR
    report = inspect(path, reading)
    print(json.dumps(report, indent=1) if args.json else text(report))
    return 0


def check_checkpoint(name: str, path: Path, branch: str | None = None) -> str:
    """Read the checkpoint of the method `name` as its conversion will; its SHA-256. `UserError`: it cannot be read."""
    try:
        return read_checkpoint(path, branch).sha256
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from None


def inspect(path: Path, reading: Reading) -> dict[str, Any]:
    """The JSON object that describes a checkpoint file; the module's text has its keys."""
    info = reading.info
    return {
        "schema": 1, "file": path.name, "bytes": path.stat().st_size, "sha256": reading.sha256,
        "container": reading.container, "family": reading.family, "method": info.method,
        "method_from": reading.method_from, "candidates": list(reading.candidates), "branch": info.branch,
        "branches": dict(reading.branches), "address": reading.address, "epochs": info.epochs,
        "architecture": info.architecture, "standard": info.architecture == STANDARD, "read": len(reading.state),
        "expected": len(expected_shapes(info.architecture)),
        "left_over": dict(Counter(reading.groups.values()).most_common()),
        "left_why": {reading.groups[name]: why for name, why in reading.left.items()},
        "fpn": list(reading.fpn), "stride_in_1x1": info.stride_in_1x1, "notes": list(reading.notes),
        "pixels": {"channel_order": info.channel_order, "mean": list(info.pixel_mean), "std": list(info.pixel_std)},
    }


def text(report: dict[str, Any]) -> str:
    """What a person reads: one line a fact."""
    pixels = report["pixels"]
    mean, std = (" ".join(f"{255 * value:.6g}" for value in pixels[key]) for key in ("mean", "std"))
    standard = "" if report["standard"] else ", not standard: the published protocols have a ResNet-50"
    fpn = f", {len(report['fpn'])} of a pretrained FPN" if report["fpn"] else ""
    left = []
    for prefix, count in report["left_over"].items():
        why = report["left_why"][prefix]
        left.append(f"{prefix} ({count})" if why == NOT_OF_THE_RESNET else f"{prefix} ({count}, {why})")
    facts = {
        "layout": [f"{report['family']} ({report['container']}, {report['bytes'] / 1e6:.1f} MB)"],
        "method": [_method(report)],
        "network": [_network(report, branch, address) for branch, address in report["branches"].items()],
        "epochs": ["not stored" if report["epochs"] is None else report["epochs"]],
        "is a": [ARCHITECTURES[report["architecture"]].title + standard],
        "pixels": [f"{pixels['channel_order']} of 0..255, mean {mean}, deviation {std}"],
        "stride": [f"in the {'1x1' if report['stride_in_1x1'] else '3x3'} convolution"],
        "tensors": [f"{report['read']} of {report['expected']} read{fpn}"],
        "left over": [some(left, 6) or "none"],
        "sha256": [report["sha256"]],
        "note": report["notes"],
    }
    lines = [report["file"]]
    for title, values in facts.items():
        for value in values:
            lines.append(f"  {title:<11}{value}")
            title = ""  # once, before the first of several
    return "\n".join(lines)


def _method(report: dict[str, Any]) -> str:
    if report["candidates"]:
        return f"{one_of(report['candidates'])} (until then it is called {report['method']}, as the file)"
    if report["method_from"] == "file name":
        return f"{report['method']} (the file's name, as nothing in it proves a method; --method NAME says which)"
    if report["method_from"] == "sum":
        return f"{report['method']} (its SHA-256 is that of a file of torchvision's)"
    return report["method"]


def _network(report: dict[str, Any], branch: str, address: str) -> str:
    where = address.removeprefix(":") or "bare names"
    if where.endswith(":"):
        where += " (bare names)"
    if address == report["address"] and len(report["branches"]) > 1:
        where += "  <- read by default" if branch == next(iter(report["branches"])) else "  <- read on request"
    return f"{branch}  {where}"


def parts_text(parts: list[Choice], most: int = 12) -> str:
    """The parts of a file and how to name each network, a line each; nothing for a file without tensors."""
    networks = [part for part in parts if part.title]
    others = [part for part in parts if not part.title]
    width = max((len(part.address) for part in parts), default=0)
    lines = [f"  --prefix {part.address!r:<{width + 2}}  {part.tensors:>5} tensors, {part.title}" for part in networks]
    lines += [f"  no ResNet {part.address!r:<{width + 2}} {part.tensors:>5}" for part in others[:most]]
    lines += [f"  and {len(others) - most} smaller parts"] if len(others) > most else []
    if networks:
        lines.append("Name a network with --prefix; --branch student|teacher then says what it is.")
    return "".join(f"{line}\n" for line in lines)
