"""Takes a checkpoint through the canonical backbone.safetensors to the files of one or several targets, with proof.

Reading -> backbone.safetensors -> a writer for each target -> its proof -> the certificate, written last.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, Unpack
from urllib.parse import urlparse

import detectron2
import numpy as np
import torch
import torchvision

from pretrain import __version__
from pretrain.common.architectures import ARCHITECTURES, STANDARD
from pretrain.common.atomic import make_folder, sha256_file
from pretrain.common.backbone_file import BackboneInfo, load_backbone, save_backbone
from pretrain.common.errors import UserError
from transfer.conversion.certificate import (
    CERTIFICATE,
    SCHEMA,
    TOLERANCE,
    Certificate,
    batch_norm_summary,
    batch_norm_warnings,
    write_certificate,
)
from transfer.conversion.proof import PROOFS, assert_loaded
from transfer.conversion.random_convolutions import method_of, redraw
from transfer.conversion.stage_maps import STAGES
from transfer.conversion.writers import WRITERS, State, pixel_format, without_biases
from transfer.reading.architecture import expected_shapes
from transfer.reading.intake import Reading, one_of, read_checkpoint

__all__ = ["CANONICAL", "assert_loaded", "convert", "describe"]  # the fine-tuning checks what it loaded

CANONICAL = "backbone.safetensors"
FPN_PREFIX = "fpn_"  # every name of a pretrained FPN begins so, and no name of a ResNet does


class How(TypedDict, total=False):
    """How to read the checkpoint, as in `read_checkpoint`."""

    branch: str | None
    trust: bool
    prefix: str | None


def convert(source: str | Path, output: str | Path, method: str | None = None, *,
            targets: Sequence[str] = ("detectron2",), fpn: bool = False, random_convolutions: int | None = None,
            **how: Unpack[How]) -> Certificate:
    """Write `source` into the folder `output`: backbone.safetensors, a file for each target, conversion.json.

    conversion.json, returned as a dictionary, is written last: a folder without it is not a finished conversion, and a
    file that fails its proof does not stay. What an earlier conversion left in the folder is taken away first.
    `method` names the row of the tables (default: what the file proves, else its name). `fpn` also takes over a
    pretrained FPN (ReSim), into detectron2's file and the canonical one. `random_convolutions` is a seed: all
    convolutions are drawn from it, as a control that keeps only the batch norm, and the method's name says so.
    Raises `UserError` when the file cannot be read or what the target loaded is not the same network.
    """
    source, output = Path(source), Path(output)
    _check_targets(targets, fpn)
    if fpn and random_convolutions is not None:
        raise UserError("--random-convolutions keeps no pretrained convolution, and an FPN is made of them: leave out "
                        "--fpn")
    reading = read_checkpoint(source, **how)
    _check_fits(reading, source, targets, fpn)
    info = replace(reading.info, method=method or reading.info.method, family=reading.info.family or reading.family)
    if random_convolutions is not None:
        reading = replace(reading, state=redraw(reading.state, info.architecture, random_convolutions))
        info = replace(info, random_convolutions=random_convolutions)
    if info.random_convolutions is not None:  # now, or before it was written
        info = replace(info, method=method_of(info.method))
    _prepare_output(source, output, targets)
    # What is written starts from the canonical file as it is read again, not from the checkpoint.
    canonical_sha256 = save_backbone(output / CANONICAL, reading.state | (reading.fpn if fpn else {}), info)
    state, kept_fpn = split_fpn(load_backbone(output / CANONICAL)[0])
    written = {target: _write(target, output, state, info, kept_fpn) for target in dict.fromkeys(targets)}
    statistics = batch_norm_summary(state)
    transferred = sorted(without_biases(kept_fpn))
    notes = list(reading.notes)
    if info.random_convolutions is not None:
        notes.append(f"The convolutions are random, drawn from seed {info.random_convolutions}; batch norm is the "
                     "source's.")
    if method is None and reading.candidates:
        notes.append(f"No method is proved, the file's name stands for it: {one_of(reading.candidates)}.")
    return write_certificate(output, {
        "schema": SCHEMA,
        "source": info.source_name,
        "source_sha256": info.source_sha256,
        "input": source.name,
        "input_sha256": reading.sha256,
        "canonical_sha256": canonical_sha256,
        "family": info.family,
        "method": info.method,
        "architecture": info.architecture,
        "standard": info.architecture == STANDARD,
        "branch": info.branch,
        "address": reading.address,
        "epochs": info.epochs,
        "pretraining": info.pretraining,
        "random_convolutions": info.random_convolutions,
        "consumed": len(state),
        "expected": len(expected_shapes(info.architecture)),
        "missing": sorted(expected_shapes(info.architecture).keys() - state.keys()),
        "left_over": reading.left_over,
        "shapes": {name: "x".join(map(str, value.shape)) for name, value in state.items()},
        "batch_norm": statistics,
        "pixel_format": pixel_format(info),
        "fpn": {"transferred": transferred, "dropped": sorted(reading.fpn.keys() - set(transferred))},
        "reference": _reference(info),
        "targets": written,
        "tolerance": TOLERANCE,
        "warnings": batch_norm_warnings(statistics),
        "notes": notes,
        "versions": {"tool": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__,
                     "detectron2": detectron2.__version__, "numpy": np.__version__},
    })


def split_fpn(tensors: State) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The ResNet's tensors and the pretrained FPN's of a canonical file."""
    fpn = {name: value for name, value in tensors.items() if name.startswith(FPN_PREFIX)}
    return {name: value for name, value in tensors.items() if name not in fpn}, fpn


def describe(certificate: Mapping[str, Any], output: str | Path) -> str:
    """What a user reads after a conversion: a few lines."""
    c, form = certificate, certificate["pixel_format"]
    epochs = f"{c['epochs']} epochs" if c["epochs"] is not None else "epochs not stored"
    origin = "" if c["input_sha256"] == c["source_sha256"] else f" (from {c['source']}, {c['source_sha256'][:12]}...)"
    left = f"{len(c['left_over'])} left over{_groups(c['left_over'])}"
    statistics = c["batch_norm"]
    lines = [f"{c['input']}{origin}: {c['family']} layout, {ARCHITECTURES[c['architecture']].title}, {c['branch']}, "
             f"{epochs}; method {c['method']}",
             f"{c['consumed']} of {c['expected']} tensors converted, none missing; {left}",
             f"batch norm: {statistics['layers']} layers, variances {_range(statistics['running_var'])}, "
             f"means {_range(statistics['running_mean'])}",
             f"feed {form['channel_order']} images, mean {form['mean']}, std {form['std']} of 0..255; "
             f"stride in the {'1x1' if form['stride_in_1x1'] else '3x3'} convolution"]
    taken, dropped = len(c["fpn"]["transferred"]), len(c["fpn"]["dropped"])
    if taken:
        lines.append(f"pretrained FPN: {taken} convolutions taken over, {dropped} biases dropped (detectron2's FPN "
                     "normalises instead, and has none)")
    elif dropped:
        lines.append(f"pretrained FPN: its {dropped} tensors left out; --fpn takes it over")
    for target, written in c["targets"].items():
        differences = written["largest_difference"]
        lines.append(f"{target}: {written['tensors']} tensors equal bit for bit; loader: {written['loader']}")
        if differences:
            lines.append(f"  largest difference to {c['reference']}, in standard deviations of each map: "
                         + ", ".join(f"{stage} {differences[stage]:.1e}" for stage in STAGES))
        lines.append(f"  {written['usage']}")
    lines += [f"note: {note}" for note in c["notes"]] + [f"warning: {warning}" for warning in c["warnings"]]
    if not c["standard"]:
        lines.append("note: not a ResNet-50: the transfer is not the published protocol, and its rows say so")
    files = [CANONICAL, *(written["file"] for written in c["targets"].values()), CERTIFICATE]
    text = "\n".join([*lines, "wrote " + ", ".join(str(Path(output) / name) for name in files)])
    return text.encode("utf-8", "backslashreplace").decode()  # a file's name may be no text


def _check_targets(targets: Sequence[str], fpn: bool) -> None:
    unknown = [target for target in targets or [""] if target not in WRITERS]
    if unknown:
        raise UserError(f"expected --to to name some of {', '.join(WRITERS)}, found {', '.join(map(repr, unknown))}")
    if fpn and "detectron2" not in targets:
        raise UserError("--fpn takes a pretrained FPN over to detectron2: add --to detectron2, or leave --fpn out")


def _check_fits(reading: Reading, source: Path, targets: Sequence[str], fpn: bool) -> None:
    if fpn and not reading.fpn:
        raise UserError(f"--fpn: expected a pretrained FPN in {source}, found none in this {reading.family} file: "
                        "leave --fpn out")
    unable = [target for target in targets if not WRITERS[target].strides_in_1x1]
    if reading.info.stride_in_1x1 and ARCHITECTURES[reading.info.architecture].bottleneck and unable:
        able = [target for target, writer in WRITERS.items() if writer.strides_in_1x1]
        raise UserError(f"{source} strides in its 1x1 convolutions, as MSRA's networks do, and the ResNet-50 of "
                        f"{' and '.join(unable)} in its 3x3 ones: there it would be another network; expected --to "
                        f"{' or '.join(able)}")


def _prepare_output(source: Path, output: Path, targets: Sequence[str]) -> None:
    """Make the folder, refuse what cannot be used, and take away what an earlier conversion left, certificate first."""
    where = str(output.absolute())
    if any("\ud800" <= letter <= "\udfff" for letter in where):  # bytes of a name that are no UTF-8
        raise UserError(f"safetensors opens only paths that are UTF-8, found {where!r}: choose another --output")
    # detectron2 takes every path for an address: what it would drop from one must not be in it.
    if "detectron2" in targets and urlparse(where)._replace(query="").geturl() != where:
        raise UserError(f"detectron2 cannot read a path with a question mark or a line break ({output}): "
                        "choose another --output")
    make_folder(output)
    products = [output / name for name in (CERTIFICATE, CANONICAL, *(writer.file for writer in WRITERS.values()))]
    present = [path for path in products if path.exists()]
    if folders := [path for path in present if path.is_dir()]:
        raise UserError(f"expected room for a file, found the folder {folders[0]}: choose another --output")
    if any(path.samefile(source) for path in present):
        raise UserError(f"{source} would be overwritten by its own conversion: choose another --output")
    stale = [writer.file for target, writer in WRITERS.items()
             if target not in targets and output / writer.file in present]
    if stale:
        print(f"note: {', '.join(stale)} of an earlier conversion is removed from {output}", file=sys.stderr)
    for path in present:
        path.unlink()


def _write(target: str, output: Path, state: State, info: BackboneInfo, fpn: State) -> dict[str, Any]:
    """Write and prove one target's file; its entry in the certificate."""
    path = output / WRITERS[target].file
    try:
        WRITERS[target].write(path, state, info, fpn)
        proof = PROOFS[target](path, state, info, fpn)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return {"file": path.name, "sha256": sha256_file(path), "usage": WRITERS[target].usage(Path(path.name), info),
            **proof}


def _reference(info: BackboneInfo) -> str:
    moved = info.stride_in_1x1 and ARCHITECTURES[info.architecture].bottleneck
    return f"torchvision's {info.architecture}{', stride moved from conv2 to conv1 in layers 2 to 4' if moved else ''}"


def _groups(names: Sequence[str], most: int = 4) -> str:
    """` (module.projector 18, ...)`: names counted by their first two parts."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names).most_common()
    shown = [f"{group} {count}" for group, count in counts[:most]]
    if len(counts) > most:
        shown.append("...")
    return f" ({', '.join(shown)}), named in {CERTIFICATE}" if shown else ""


def _range(figures: Mapping[str, float]) -> str:
    return f"{figures['min']:.3g} to {figures['max']:.3g}"
