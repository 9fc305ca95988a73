"""The certificate of a conversion: conversion.json, written last, and refused when it does not fit its files.

It carries a digest of its own content, so that a hand-edited one is found, and the SHA-256 of every
file that was written. Both find accidents and edits, not a forger: who can write the folder can
also compute a new digest. Its keys:

- schema
- source, source_sha256: the original checkpoint
- input, input_sha256: the file that was read this time
- canonical_sha256: of backbone.safetensors
- family, method, branch, address ("PLACE:PREFIX" of the network in the input), epochs (null: not
  known)
- architecture, standard: whether a ResNet-50, as in the published protocols
- pretraining: which one of this project made it (null: of elsewhere), and random_convolutions: their
  seed, where a control drew them at random (else null); older certificates have neither
- consumed, expected (numbers of tensors), missing, left_over (names)
- shapes: torchvision's name -> "64x3x7x7"
- batch_norm: see `batch_norm_summary`
- pixel_format: channel_order, mean and std of 0..255 values in that order, stride_in_1x1
- fpn: transferred, dropped: names of a pretrained FPN's tensors; all are dropped without --fpn
- reference: the network that the maps were compared with, tolerance
- targets: name -> file, sha256, loader, tensors, largest_difference, usage
- warnings
- notes: what the reader of the checkpoint had to say
- versions
- digest: SHA-256 of the rest
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pretrain.common.atomic import sha256_file, write_text
from pretrain.common.errors import UserError, refuse
from pretrain.common.fields import is_number
from transfer.conversion.writers import WRITERS, read_detectron2
from transfer.reading.architecture import expected_shapes

CERTIFICATE = "conversion.json"
SCHEMA = 2  # 1: pixel means in 0..1 units, detectron2 as the only target, no digest
# In standard deviations of a map. Float64 on both sides leaves rounding of about 1e-15; a wrong
# tensor is far above.
TOLERANCE = 1e-9


Certificate = dict[str, Any]


def digest(certificate: Mapping[str, Any]) -> str:
    """SHA-256 of a certificate's content as sorted JSON, its own digest left out."""
    rest = {key: value for key, value in certificate.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_certificate(folder: Path, content: Mapping[str, Any]) -> Certificate:
    """Seal `content` with its digest and write it, whole or not at all; returns what a reader will
    find."""
    plain = json.loads(json.dumps(content))
    sealed = {**plain, "digest": digest(plain)}
    write_text(folder / CERTIFICATE, json.dumps(sealed, indent=1, sort_keys=True) + "\n")
    return sealed


def read_certificate(folder: str | Path, target: str = "detectron2") -> Certificate:
    """The certificate of a converted folder, when it is whole and fits the file of `target` there.

    Raises `UserError` when there is none, when it is of another schema, was edited, does not
    certify all tensors of the network within `TOLERANCE`, or when the file is not the certified one
    or holds anything but arrays.
    """
    path, file = Path(folder) / CERTIFICATE, Path(folder) / WRITERS[target].file
    refuse((not path.is_file() or not file.is_file(),
            f"{folder} is not a converted checkpoint: expected {path.name} and {file.name} in it; "
            f"run `clove convert FILE --to {target} --output {folder}`"))
    content = open_certificate(path)
    certified, found = content["targets"].get(target, {}), sha256_file(file)
    differences, again = certified.get("largest_difference"), f"convert the checkpoint again with --to {target}"
    shown = isinstance(differences, dict) and len(differences) > 0
    refuse(
        (not certified, f"expected {path} to certify {file.name}, found "
                        f"{', '.join(content['targets']) or 'no file'}: {again}"),
        (found != certified.get("sha256"),
         f"expected {path} to certify {file}, found that its SHA-256 is another one, "
         f"{found[:12]}...: {again}"),
        (target == "detectron2" and not (shown and all(is_number(one, 0, TOLERANCE) for one in differences.values())),
         f"expected {path} to show maps within {TOLERANCE:.0e} standard deviations, found "
         f"{differences}: {again}"))
    if target == "detectron2":
        read_detectron2(file)  # arrays alone: detectron2 itself would run whatever code a pickle holds
    return content


def open_certificate(path: Path) -> Certificate:
    """A certificate that is whole, unedited and of all tensors of its network.

    Says nothing of the files beside it.
    """
    again = "convert the checkpoint again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # neither JSON nor UTF-8
        raise UserError(f"{path}: expected JSON, found another file ({error}); {again}") from None
    refuse((not isinstance(content, dict) or "schema" not in content,
            f"{path}: expected a certificate, found another JSON file; {again}"))
    refuse(
        (content["schema"] != SCHEMA,
         f"{path}: expected a certificate of schema {SCHEMA}, found schema {content['schema']}, of "
         f"another version of this program; {again}"),
        (content.get("digest") != digest(content),
         f"{path}: expected what the conversion wrote, found that it was edited after the "
         f"conversion (its digest does not fit its content); {again}"))
    number = len(expected_shapes(content["architecture"]))
    refuse((not content["consumed"] == content["expected"] == number or content["missing"],
            f"{path}: expected all {number} tensors of a {content['architecture']}, found "
            f"{content['consumed']} of {content['expected']} consumed and "
            f"{len(content['missing'])} missing; {again}"))
    return content


def batch_norm_summary(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The ranges of batch norm's statistics over the whole network, and which layers look
    untouched.

    Untouched is what a new layer has: all means 0 and all variances 1. `zero_variances` counts
    channels (a variance below float16's smallest number was stored as 0). `zero_weights`: layers
    whose weights are all 0.
    """
    means, variances, untouched, zero_weights = [], [], [], []
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and value.ndim == 1 and not value.any():
            zero_weights.append(layer)
        if kind == "running_mean":
            means.append(value)
            variances.append(state[f"{layer}.running_var"])
            if (value == 0).all() and (variances[-1] == 1).all():
                untouched.append(layer)
    mean, variance = torch.cat(means), torch.cat(variances)
    return {"layers": len(means), "untouched": untouched,
            "running_mean": {"min": float(mean.min()), "max": float(mean.max())},
            "running_var": {"min": float(variance.min()), "median": float(variance.median()),
                            "max": float(variance.max())},
            "zero_variances": int((variance == 0).sum()), "zero_weights": zero_weights}


def batch_norm_warnings(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the certificate should know about these statistics; empty when they look
    trained."""
    found = []
    if summary["untouched"]:
        found.append(f"{len(summary['untouched'])} of {summary['layers']} batch-norm layers have "
                     "all means 0 and all variances 1, as a new network has: was this checkpoint "
                     "trained, and are its statistics saved?")
    if summary["zero_variances"]:
        found.append(f"{summary['zero_variances']} channels have a variance of 0: stored in "
                     "float16?")
    if summary["zero_weights"]:
        found.append(f"{len(summary['zero_weights'])} batch-norm layers have weights of 0 alone: "
                     "the maps prove nothing of the convolutions before them, only the comparison "
                     "of the tensors does")
    return found
