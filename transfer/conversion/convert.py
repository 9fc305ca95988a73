"""Takes a checkpoint through the canonical backbone.safetensors to the files of targets, with proof.

Reading -> backbone.safetensors -> a writer for each target -> its proof -> the certificate, written
last.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
import torchvision

from pretrain import __version__
from pretrain.common.architectures import ARCHITECTURES, STANDARD
from pretrain.common.atomic import make_folder, sha256_file
from pretrain.common.backbone_file import BackboneInfo, load_backbone, save_backbone
from pretrain.common.errors import refuse
from transfer.conversion.certificate import (
    CERTIFICATE,
    SCHEMA,
    TOLERANCE,
    Certificate,
    batch_norm_summary,
    batch_norm_warnings,
    write_certificate,
)
from transfer.conversion.proof import PROOFS, assert_loaded, optional
from transfer.conversion.random_convolutions import method_of, redraw
from transfer.conversion.stage_maps import STAGES
from transfer.conversion.writers import WRITERS, State, pixel_format, usage, without_biases
from transfer.reading.architecture import expected_shapes, first_names
from transfer.reading.intake import Reading, one_of, read_checkpoint

__all__ = ["CANONICAL", "assert_loaded", "convert", "describe"]  # the fine-tuning checks what it loaded

CANONICAL = "backbone.safetensors"
FPN_PREFIX = "fpn_"  # every name of a pretrained FPN begins so, and no name of a ResNet does


@dataclass(frozen=True)
class Options:
    """How to read a checkpoint, and what to make of it.

    `method` names the row of the tables (default: what the file proves, else its name). `fpn` also
    takes over a pretrained FPN (ReSim), into detectron2's file and the canonical one.
    `random_convolutions` is a seed: all convolutions are drawn from it, as a control that keeps
    only the batch norm, and the method's name says so. `branch`, `trust` and `prefix` as in
    `read_checkpoint`.
    """

    method: str | None = None
    targets: Sequence[str] = ("detectron2",)
    fpn: bool = False
    random_convolutions: int | None = None
    branch: str | None = None
    trust: bool = False
    prefix: str | None = None


def convert(source: str | Path, output: str | Path, method: str | None = None, **options: Any
            ) -> Certificate:
    """Write `source` into the folder `output`: backbone.safetensors, each target's file,
    conversion.json.

    `options`: see `Options`. conversion.json, returned as a dictionary, is written last: a folder
    without it is not a finished conversion, and a file that fails its proof does not stay. What an
    earlier conversion left in the folder is taken away first. Raises `UserError` when the file
    cannot be read or what the target loaded is not the same network.
    """
    source, output, asked = Path(source), Path(output), Options(method, **options)
    _check_options(asked)
    reading = read_checkpoint(source, asked.branch, asked.trust, asked.prefix)
    _check_fit(reading, source, asked)
    info = replace(reading.info, method=method or reading.info.method,
                   family=reading.info.family or reading.family)
    state = reading.state
    if asked.random_convolutions is not None:
        state = redraw(state, info.architecture, asked.random_convolutions)
        info = replace(info, random_convolutions=asked.random_convolutions)
    if info.random_convolutions is not None:  # now, or before it was written
        info = replace(info, method=method_of(info.method))
    _prepare_output(source, output, asked.targets)

    if asked.fpn:
        state = state | reading.fpn
    canonical_sha256 = save_backbone(output / CANONICAL, state, info)
    # What is written starts from the canonical file as it is read again, not from the checkpoint.
    state, fpn, written = {}, {}, {}
    for name, value in load_backbone(output / CANONICAL)[0].items():
        if name.startswith(FPN_PREFIX):
            fpn[name] = value
        else:
            state[name] = value
    for target in dict.fromkeys(asked.targets):
        written[target] = _write(target, output, state, info, fpn)
    transferred = sorted(without_biases(fpn))
    return write_certificate(output, {
        "schema": SCHEMA,
        "input": source.name,
        "canonical_sha256": canonical_sha256,
        "fpn": {"transferred": transferred, "dropped": sorted(reading.fpn.keys() - set(transferred))},
        "targets": written,
        "tolerance": TOLERANCE,
        "notes": _notes(reading, info, method),
        "versions": {"tool": __version__, "torch": torch.__version__,
                     "detectron2": getattr(optional("detectron2"), "__version__", None),
                     "torchvision": torchvision.__version__, "numpy": np.__version__},
        **_about_the_network(reading, info, state),
    })


def _about_the_network(reading: Reading, info: BackboneInfo, state: State) -> dict[str, Any]:
    """The certificate's entries that say what was read and written, whatever the targets are."""
    expected, statistics = expected_shapes(info.architecture), batch_norm_summary(state)
    moved = ", stride moved from conv2 to conv1 in layers 2 to 4" if _strides_in_1x1(info) else ""
    return {
        "source": info.source_name,
        "source_sha256": info.source_sha256,
        "input_sha256": reading.sha256,
        "family": info.family,
        "method": info.method,
        "branch": info.branch,
        "address": reading.address,
        "epochs": info.epochs,
        "pretraining": info.pretraining,
        "random_convolutions": info.random_convolutions,
        "left_over": reading.left_over,
        "pixel_format": pixel_format(info),
        "architecture": info.architecture,
        "standard": info.architecture == STANDARD,
        "reference": f"torchvision's {info.architecture}{moved}",
        "consumed": len(state),
        "expected": len(expected),
        "missing": sorted(expected.keys() - state.keys()),
        "shapes": {name: "x".join(map(str, value.shape)) for name, value in state.items()},
        "batch_norm": statistics,
        "warnings": batch_norm_warnings(statistics),
    }


def _notes(reading: Reading, info: BackboneInfo, method: str | None) -> list[str]:
    notes = list(reading.notes)
    if info.random_convolutions is not None:
        notes.append(f"The convolutions are random, drawn from seed {info.random_convolutions}; "
                     "batch norm is the source's.")
    if method is None and reading.candidates:
        notes.append("No method is proved, the file's name stands for it: "
                     f"{one_of(reading.candidates)}.")
    return notes


def describe(certificate: Mapping[str, Any], output: str | Path) -> str:
    """What a user reads after a conversion: a few lines."""
    c, form, statistics = certificate, certificate["pixel_format"], certificate["batch_norm"]
    origin = ""
    if c["input_sha256"] != c["source_sha256"]:
        origin = f" (from {c['source']}, {c['source_sha256'][:12]}...)"
    epochs = "epochs not stored" if c["epochs"] is None else f"{c['epochs']} epochs"
    lines = [f"{c['input']}{origin}: {c['family']} layout, "
             f"{ARCHITECTURES[c['architecture']].title}, {c['branch']}, {epochs}; method "
             f"{c['method']}",
             f"{c['consumed']} of {c['expected']} tensors converted, none missing; "
             f"{len(c['left_over'])} left over{_groups(c['left_over'])}",
             f"batch norm: {statistics['layers']} layers, variances "
             f"{_range(statistics['running_var'])}, means {_range(statistics['running_mean'])}",
             f"feed {form['channel_order']} images, mean {form['mean']}, std {form['std']} of "
             f"0..255; stride in the {'1x1' if form['stride_in_1x1'] else '3x3'} convolution"]
    taken, dropped = len(c["fpn"]["transferred"]), len(c["fpn"]["dropped"])
    if taken:
        lines.append(f"pretrained FPN: {taken} convolutions taken over, {dropped} biases dropped "
                     "(detectron2's FPN normalises instead, and has none)")
    elif dropped:
        lines.append(f"pretrained FPN: its {dropped} tensors left out; --fpn takes it over")
    files = []
    for target, written in c["targets"].items():
        files.append(written["file"])
        differences = written["largest_difference"]
        lines.append(f"{target}: {written['tensors']} tensors equal bit for bit; "
                     f"loader: {written['loader']}")
        if differences:
            shown = ", ".join(f"{stage} {differences[stage]:.1e}" for stage in STAGES)
            lines.append(f"  largest difference to {c['reference']}, in standard deviations of "
                         f"each map: {shown}")
        lines.append(f"  {written['usage']}")
    for note in c["notes"]:
        lines.append(f"note: {note}")
    for text in c["warnings"]:
        lines.append(f"warning: {text}")
    if not c["standard"]:
        lines.append("note: not a ResNet-50: the transfer is not the published protocol, and its "
                     "rows say so")
    files = [f"{Path(output) / name}" for name in (CANONICAL, *files, CERTIFICATE)]
    lines.append(f"wrote {', '.join(files)}")
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()  # a file's name may be no text


def _check_options(asked: Options) -> None:
    unknown = [target for target in asked.targets or [""] if target not in WRITERS]
    refuse(
        (unknown,
         f"expected --to to name some of {', '.join(WRITERS)}, found "
         f"{', '.join(map(repr, unknown))}"),
        ("detectron2" in asked.targets and optional("detectron2") is None,
         "detectron2's file is proved by detectron2, which is not installed: run `clove setup`, "
         "or leave it out with --to torchvision,timm,mmdet"),
        (asked.fpn and "detectron2" not in asked.targets,
         "--fpn takes a pretrained FPN over to detectron2: add --to detectron2, or leave --fpn out"),
        (asked.fpn and asked.random_convolutions is not None,
         "--random-convolutions keeps no pretrained convolution, and an FPN is made of them: "
         "leave out --fpn"))


def _check_fit(reading: Reading, source: Path, asked: Options) -> None:
    """Whether the checkpoint can become what is asked for."""
    able = [target for target, writer in WRITERS.items() if writer.strides_in_1x1]
    unable = [target for target in asked.targets if target not in able]
    refuse(
        (asked.fpn and not reading.fpn,
         f"--fpn: expected a pretrained FPN in {source}, found none in this {reading.family} file: "
         "leave --fpn out"),
        (unable and _strides_in_1x1(reading.info),
         f"{source} strides in its 1x1 convolutions, as MSRA's networks do, and the ResNet-50 of "
         f"{' and '.join(unable)} in its 3x3 ones: there it would be another network; expected "
         f"--to {' or '.join(able)}"))


def _strides_in_1x1(info: BackboneInfo) -> bool:
    return info.stride_in_1x1 and ARCHITECTURES[info.architecture].bottleneck


def _prepare_output(source: Path, output: Path, targets: Sequence[str]) -> None:
    """Make the folder, and take away what an earlier conversion left there, the certificate first.
    """
    where = str(output.absolute())
    refuse(
        (any("\ud800" <= letter <= "\udfff" for letter in where),  # bytes of a name that are no UTF-8
         f"safetensors opens only paths that are UTF-8, found {where!r}: choose another --output"),
        # detectron2 takes every path for an address: what it would drop from one must not be in it.
        ("detectron2" in targets and urlparse(where)._replace(query="").geturl() != where,
         f"detectron2 cannot read a path with a question mark or a line break ({where}): choose "
         "another --output"))
    make_folder(output)
    files = [CERTIFICATE, CANONICAL, *(writer.file for writer in WRITERS.values())]
    present = [output / name for name in files if (output / name).exists()]
    wanted = {CERTIFICATE, CANONICAL, *(WRITERS[target].file for target in targets)}
    refuse((any(path.samefile(source) for path in present),
            f"{source} would be overwritten by its own conversion: choose another --output"))
    stale = [path.name for path in present if path.name not in wanted]
    if stale:
        print(f"note: {', '.join(stale)} of an earlier conversion is removed from {output}", file=sys.stderr)
    for path in present:
        path.unlink()


def _write(target: str, output: Path, state: State, info: BackboneInfo, fpn: State) -> dict[str, Any]:
    """Write and prove one target's file; its entry in the certificate."""
    writer = WRITERS[target]
    path = output / writer.file
    try:
        writer.write(path, state, info, fpn)
        proof = PROOFS[target](path, state, info, fpn)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return {"file": path.name, "sha256": sha256_file(path), "usage": usage(target, info), **proof}


def _groups(names: Sequence[str], most: int = 4) -> str:
    """` (module.projector 18, ...)`: names counted by their first two parts."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names).most_common()
    shown = first_names([f"{group} {count}" for group, count in counts], most)
    return f" ({shown}), named in {CERTIFICATE}" if shown else ""


def _range(ends: Mapping[str, float]) -> str:
    return f"{ends['min']:.3g} to {ends['max']:.3g}"
