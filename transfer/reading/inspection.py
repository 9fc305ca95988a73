"""`clove inspect FILE`: what a checkpoint file is, before anything is done with it.

The JSON object of --json has these keys, of which none will change its meaning under schema 1:

schema, file, bytes, sha256: the file. container: kind of file. family: the published layout, or
"unknown layout".
method, method_from ("layout", "header", "sum" or "file name"), candidates: methods that may have
written a file whose layout proves none.
branch ("student", "teacher", "single"), branches (branch -> "PLACE:PREFIX", the default first),
address.
epochs (null: not stored). architecture, standard (true for ResNet-50 alone). read, expected:
numbers of tensors. left_over (prefix -> number), left_why (prefix -> reason), fpn (names).
pixels (channel_order; mean and std of intensities from 0 to 1). stride_in_1x1. notes.

When it cannot be read, or is not clear which network is meant: schema, file, error, and parts
(address, tensors, network; empty where nothing was read).
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
from transfer.reading.networks import Choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
    parser.description = ("Says what a checkpoint file is: layout, method, networks, pixel format, "
                          f"tensors. Known layouts: {names}, and our own {OWN_FAMILY}.")
    parser.add_argument("file", metavar="FILE", help="the checkpoint")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    path = Path(args.file)
    try:
        report = inspect(path, read_checkpoint(path, args.branch, args.trust, args.prefix))
    except UserError as error:
        choices = getattr(error, "choices", [])  # those of a `LayoutError`
        if args.json:
            parts = [{"address": part.address, "tensors": part.tensors, "network": part.title or None}
                     for part in choices]
            report = {"schema": 1, "file": path.name, "error": str(error), "parts": parts}
            print(json.dumps(report, indent=1))
        else:
            print(f"error: {error}", file=sys.stderr)
            print(parts_text(choices), end="")
        return USER_ERROR
    if args.json:
        print(json.dumps(report, indent=1))
    else:
        print(text(report))
    return 0


def check_checkpoint(name: str, path: Path, branch: str | None = None) -> str:
    """Read the checkpoint of the method `name` as its conversion will; returns its SHA-256.

    Raises `UserError`, which names the method, when it cannot be read.
    """
    try:
        return read_checkpoint(path, branch).sha256
    except UserError as error:
        raise UserError(f"checkpoint {name}: {error}") from None


def inspect(path: Path, reading: Reading) -> dict[str, Any]:
    """The JSON object that describes a checkpoint file; the module's docstring has its keys."""
    info = reading.info
    return {
        "schema": 1,
        "file": path.name, "bytes": path.stat().st_size, "sha256": reading.sha256,
        "container": reading.container, "family": reading.family,
        "method": info.method, "method_from": reading.method_from,
        "candidates": list(reading.candidates),
        "branch": info.branch, "branches": dict(reading.branches), "address": reading.address,
        "epochs": info.epochs,
        "architecture": info.architecture, "standard": info.architecture == STANDARD,
        "read": len(reading.state), "expected": len(expected_shapes(info.architecture)),
        "left_over": dict(Counter(reading.groups.values()).most_common()),
        "left_why": {reading.groups[name]: why for name, why in reading.left.items()},
        "fpn": list(reading.fpn), "stride_in_1x1": info.stride_in_1x1, "notes": list(reading.notes),
        "pixels": {"channel_order": info.channel_order,
                   "mean": list(info.pixel_mean), "std": list(info.pixel_std)},
    }


def text(report: dict[str, Any]) -> str:
    """What a person reads: one line a fact."""
    pixels, epochs = report["pixels"], report["epochs"]
    architecture = ARCHITECTURES[report["architecture"]].title
    if not report["standard"]:
        architecture += ", not standard: the published protocols have a ResNet-50"
    tensors = f"{report['read']} of {report['expected']} read"
    if report["fpn"]:
        tensors += f", {len(report['fpn'])} of a pretrained FPN"
    facts = {
        "layout": [f"{report['family']} ({report['container']}, {report['bytes'] / 1e6:.1f} MB)"],
        "method": [_method(report)],
        "network": _networks(report),
        "epochs": ["not stored" if epochs is None else epochs],
        "is a": [architecture],
        "pixels": [f"{pixels['channel_order']} of 0..255, mean {_of_255(pixels['mean'])}, "
                   f"std {_of_255(pixels['std'])}"],
        "stride": [f"in the {'1x1' if report['stride_in_1x1'] else '3x3'} convolution"],
        "tensors": [tensors],
        "left over": [_left_over(report)],
        "sha256": [report["sha256"]],
        "note": report["notes"],
    }
    lines = [report["file"]]
    for title, values in facts.items():
        for value in values:
            lines.append(f"  {title:<11}{value}")
            title = ""  # once, before the first of several
    return "\n".join(lines)


def _of_255(values: list[float]) -> str:
    return " ".join(f"{255 * value:.6g}" for value in values)


def _method(report: dict[str, Any]) -> str:
    method = report["method"]
    if report["candidates"]:
        return f"{one_of(report['candidates'])} (until then it is called {method}, as the file)"
    proof = {"file name": " (the file's name, as nothing in it proves a method; --method NAME says "
                          "which)",
             "sum": " (its SHA-256 is that of a file of torchvision's)"}
    return method + proof.get(report["method_from"], "")


def _networks(report: dict[str, Any]) -> list[str]:
    """One line for each network of the layout; which is read is said where there are several."""
    lines, order = [], "by default"
    for branch, address in report["branches"].items():
        where = address.removeprefix(":") or "bare names"
        if where.endswith(":"):
            where += " (bare names)"
        if address == report["address"] and len(report["branches"]) > 1:
            where += f"  <- read {order}"
        lines.append(f"{branch}  {where}")
        order = "on request"
    return lines


def _left_over(report: dict[str, Any]) -> str:
    shown = []
    for group, count in report["left_over"].items():
        why = report["left_why"][group]
        shown.append(f"{group} ({count})" if why == NOT_OF_THE_RESNET else f"{group} ({count}, {why})")
    return some(shown, 6) or "none"


def parts_text(parts: list[Choice], most: int = 12) -> str:
    """The parts of a file and how to name each network, a line each; "" without tensors."""
    width = 2 + max((len(part.address) for part in parts), default=0)
    networks, others = [], []
    for part in parts:
        if part.title:
            networks.append(f"  --prefix {part.address!r:<{width}}  {part.tensors:>5} tensors, "
                            f"{part.title}\n")
        else:
            others.append(f"  no ResNet {part.address!r:<{width}} {part.tensors:>5}\n")
    if len(others) > most:
        others[most:] = [f"  and {len(others) - most} smaller parts\n"]
    if networks:
        others.append("Name a network with --prefix; --branch student|teacher then says what it "
                      "is.\n")
    return "".join(networks + others)
