"""Training checkpoints: atomic, safe to load, exact to resume.

A checkpoint is checkpoints/step_NNNNNNNN.pt (plain tensors and types, loadable with
weights_only=True) and beside it step_NNNNNNNN.json, written after it, with its SHA-256 and what a
person wants to know. A checkpoint without its JSON, or whose bytes do not fit the checksum, does
not count.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from pretrain.common.atomic import atomic_path, remove_dead_parts, sha256_file, write_text

NAMES = f"step_{'[0-9]' * 8}.pt"  # not a copy that somebody put beside them


def save(output: Path, step: int, state: dict[str, Any], meta: dict[str, Any]) -> Path:
    """Write the state after `step` optimizer steps, then its JSON with `meta`."""
    path = output / "checkpoints" / f"step_{step:08d}.pt"
    whole = io.BytesIO()  # torch's own file writer turns a full disk into a RuntimeError
    torch.save(state, whole)
    digest = hashlib.sha256(whole.getbuffer()).hexdigest()
    with atomic_path(path) as sibling:
        sibling.write_bytes(whole.getbuffer())
    write_text(path.with_suffix(".json"), json.dumps({"step": step, "sha256": digest, **meta}, indent=2) + "\n")
    return path


def remove_others(newest: Path, keep: int, archive_every: int = 0) -> None:
    """Remove all checkpoints but the last `keep` up to `newest`, also later ones: these were passed
    over at the start. Steps that are multiples of `archive_every` stay for good (0: none)."""
    there = sorted(newest.parent.glob(NAMES))
    up_to = [one for one in there if one.name <= newest.name]
    for old in there:
        step = int(old.stem.removeprefix("step_"))
        archived = archive_every > 0 and step % archive_every == 0 and old in up_to
        if not archived and old not in up_to[-keep:]:
            old.with_suffix(".json").unlink(missing_ok=True)
            old.unlink()


def load_newest(output: Path, tidy: bool = True) -> tuple[dict[str, Any] | None, dict[str, Any], list[str]]:
    """The newest whole checkpoint: its state (None if there is none), its meta, and a line for each
    one passed over.

    tidy: remove what a killed run left half-written; False for a reader beside a run that may be
    writing."""
    folder, passed_over = output / "checkpoints", []
    if tidy:
        remove_dead_parts(folder)
    for path in sorted(folder.glob(NAMES), reverse=True):
        try:
            meta = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            if sha256_file(path) == meta["sha256"]:
                return torch.load(path, map_location="cpu", weights_only=True), meta, passed_over
            problem = "its bytes do not fit its checksum"
        except FileNotFoundError:
            passed_over.append(f"{path.name} was not finished (no {path.stem}.json)")
            continue
        except (ValueError, KeyError, TypeError) as error:
            problem = str(error)
        passed_over.append(f"{path.name} is damaged ({problem})")
    return None, {}, passed_over
