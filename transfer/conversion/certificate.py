"""The certificate of a conversion: conversion.json, written last, and refused when it does not fit its files.

It carries a digest of its own content, so that a hand-edited one is found, and the SHA-256 of every file that was
written. Both find accidents and edits, not a forger: whoever can write the folder can also compute a new digest.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, NotRequired, TypedDict, get_args, get_origin, get_type_hints

import torch

from pretrain.common.architectures import ARCHITECTURES
from pretrain.common.atomic import sha256_file, write_text
from pretrain.common.backbone_file import HEADER
from pretrain.common.errors import UserError
from pretrain.common.fields import is_number
from transfer.conversion.writers import WRITERS, read_detectron2
from transfer.reading.architecture import expected_shapes

CERTIFICATE = "conversion.json"
SCHEMA = 2  # 1: pixel means in 0..1 units, detectron2 as the only target, no digest
# In standard deviations of a map. Float64 on both sides leaves rounding of about 1e-15; a wrong tensor is far above.
TOLERANCE = 1e-9


class Certificate(TypedDict):
    """What conversion.json holds. `source` is the original checkpoint, `input` the file that was read this time."""

    schema: int
    source: str
    source_sha256: str
    input: str
    input_sha256: str
    canonical_sha256: str  # of backbone.safetensors
    family: str
    method: str
    architecture: str
    standard: bool  # a ResNet-50, as in the published protocols
    branch: str
    address: str  # "PLACE:PREFIX" of the network in the input
    epochs: int | None
    # Which pretraining of this project made it, as its header says; None: of elsewhere. Not in older certificates.
    pretraining: NotRequired[dict | None]
    random_convolutions: NotRequired[int | None]  # their seed, where a control drew them anew
    consumed: int
    expected: int
    missing: list
    left_over: list
    shapes: dict  # torchvision's name: "64x3x7x7"
    batch_norm: dict
    pixel_format: dict  # channel_order, mean and std of 0..255 values in that order, stride_in_1x1
    fpn: dict  # transferred, dropped: names of a pretrained FPN's tensors; all are dropped without --fpn
    reference: str  # the network that the maps were compared with
    targets: dict  # name: file, sha256, loader, tensors, largest_difference, usage
    tolerance: float
    warnings: list
    notes: list  # what the reader of the checkpoint had to say
    versions: dict
    digest: str  # SHA-256 of all the rest


def digest(certificate: Mapping[str, Any]) -> str:
    """SHA-256 of a certificate's content as sorted JSON, its own digest left out."""
    rest = {key: value for key, value in certificate.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_certificate(folder: Path, content: Mapping[str, Any]) -> Certificate:
    """Seal `content` with its digest and write it, whole or not at all; returns what a reader will find."""
    plain = json.loads(json.dumps(content))
    sealed = {**plain, "digest": digest(plain)}
    write_text(folder / CERTIFICATE, json.dumps(sealed, indent=1, sort_keys=True) + "\n")
    return sealed


def read_certificate(folder: str | Path, target: str = "detectron2") -> Certificate:
    """The certificate of a converted folder, when it is whole, unedited and fits the file of `target` there.

    Raises `UserError` when there is none, when it is of another schema, was edited, does not certify all tensors of the
    network within `TOLERANCE`, or when the file is not the certified one or holds anything but arrays.
    """
    path, file = Path(folder) / CERTIFICATE, Path(folder) / WRITERS[target].file
    if not path.is_file() or not file.is_file():
        raise UserError(f"{folder} is no converted checkpoint: expected {path.name} and {file.name} in it; run "
                        f"`python -m transfer convert FILE --to {target} --output {folder}`")
    content = open_certificate(path)
    certified = content["targets"].get(target)
    if not isinstance(certified, dict):
        raise UserError(f"expected {path} to certify {file.name}, found {', '.join(content['targets']) or 'no file'}: "
                        f"convert the checkpoint again with --to {target}")
    if (found := sha256_file(file)) != certified.get("sha256"):
        raise UserError(f"{file} is not the file that {path} certifies (its SHA-256 is {found[:12]}...): "
                        "convert the checkpoint again")
    differences = certified.get("largest_difference")
    if target == "detectron2":
        read_detectron2(file)  # arrays alone: detectron2 itself would run whatever code a pickle holds
        if not isinstance(differences, dict) or not differences \
                or not all(is_number(value, 0, TOLERANCE) for value in differences.values()):
            raise UserError(f"expected {path} to show maps within {TOLERANCE:.0e} standard deviations, found "
                            f"{differences}: convert the checkpoint again")
    return content


def open_certificate(path: Path) -> Certificate:
    """A certificate that is whole, unedited and of all tensors of its network; says nothing of the files beside it."""
    content = _read(path)
    _check_fields(content, path)
    _check_claims(content, path)
    return content


def batch_norm_summary(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """The ranges of batch norm's statistics over the whole network, and how many layers look untouched.

    Untouched is what a new layer has: all means 0 and all variances 1. `zero_variances` counts channels (a variance
    below float16's smallest number was stored as 0).
    """
    means = {name.removesuffix(".running_mean"): value for name, value in state.items()
             if name.endswith(".running_mean")}
    variances = {name.removesuffix(".running_var"): value for name, value in state.items()
                 if name.endswith(".running_var")}
    untouched = [name for name in means if bool((means[name] == 0).all() and (variances[name] == 1).all())]
    all_means, all_variances = torch.cat(list(means.values())), torch.cat(list(variances.values()))
    return {"layers": len(means), "untouched": untouched,
            "running_mean": {"min": float(all_means.min()), "max": float(all_means.max())},
            "running_var": {"min": float(all_variances.min()), "median": float(all_variances.median()),
                            "max": float(all_variances.max())},
            "zero_variances": int((all_variances == 0).sum())}


def batch_norm_warnings(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the certificate should know about these statistics; empty when they look trained."""
    untouched, layers, found = len(summary["untouched"]), summary["layers"], []
    if untouched:
        found.append(f"{untouched} of {layers} batch-norm layers have all means 0 and all variances 1, as a new "
                     "network has: was this checkpoint trained, and are its statistics saved?")
    if summary["zero_variances"]:
        found.append(f"{summary['zero_variances']} channels have a variance of 0: stored in float16?")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # neither JSON nor UTF-8
        raise UserError(f"{path} cannot be read ({error}): convert the checkpoint again") from None
    if not isinstance(content, dict) or "schema" not in content:
        raise UserError(f"expected a certificate in {path}, found another JSON file: convert the checkpoint again")
    if content["schema"] != SCHEMA:
        raise UserError(f"expected a certificate of schema {SCHEMA} in {path}, found schema {content['schema']}, of "
                        "another version of this program: convert the checkpoint again")
    return content


def _check_fields(content: Mapping[str, Any], path: Path) -> None:
    hints = get_type_hints(Certificate)
    odd = sorted((Certificate.__required_keys__ - content.keys()) | (content.keys() - hints.keys())) or [
        name for name in content if not _fits(content[name], hints[name])]
    if odd:
        raise UserError(f"expected the {len(hints)} fields of schema {SCHEMA} in {path}, found these missing, unknown "
                        f"or of another type: {', '.join(odd[:5])}: convert the checkpoint again")
    if content["digest"] != digest(content):
        raise UserError(f"{path} was edited after the conversion (its digest does not fit its content): "
                        "convert the checkpoint again; what the fine-tuning shall do differently is said there")


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if isinstance(value, bool):
        return bool in kinds
    return isinstance(value, kinds) or (float in kinds and isinstance(value, int))


def _check_claims(content: Mapping[str, Any], path: Path) -> None:
    """Of a certificate with a right digest: made by a fault of this program, or by another one."""
    architecture, form = content["architecture"], content["pixel_format"]
    if architecture not in ARCHITECTURES:
        raise UserError(f"{path} is of a {architecture}: expected {', '.join(ARCHITECTURES)}")
    number = len(expected_shapes(architecture))
    if not content["consumed"] == content["expected"] == number or content["missing"]:
        raise UserError(f"expected all {number} tensors of a {architecture} in {path}, found {content['consumed']} of "
                        f"{content['expected']} consumed and {len(content['missing'])} missing: "
                        "convert the whole checkpoint again")
    if not HEADER["pretraining"](content.get("pretraining")):
        raise UserError(f"expected objective, seed, recipe_sha256 and images_sha256 as the pretraining in {path}, "
                        f"found {json.dumps(content['pretraining'])}: convert the checkpoint again")
    known = (form.keys() == {"channel_order", "mean", "std", "stride_in_1x1"}
             and form["channel_order"] in ("RGB", "BGR") and isinstance(form["stride_in_1x1"], bool)
             and all(isinstance(form[key], list) and len(form[key]) == 3 and all(map(is_number, form[key]))
                     for key in ("mean", "std")) and all(value > 0 for value in form["std"]))
    if not known:
        raise UserError(f"expected channel_order RGB or BGR, mean and std of three numbers of 0..255 and stride_in_1x1 "
                        f"as the pixel_format in {path}, found {json.dumps(form)}: convert the checkpoint again")
