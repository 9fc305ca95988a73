"""The output folder of a run: bound to one configuration and its images, and used by one process at a time."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.common.atomic import check_writable, make_folder, write_text
from pretrain.common.errors import UserError
from pretrain.common.lock import locked
from pretrain.config import Config
from pretrain.data import stamps
from pretrain.data.images import ImageList, among_images, check_folder

LEFT_BY_A_RUN = ("checkpoints", "metrics.jsonl", "done.json", "backbone.safetensors")


@contextlib.contextmanager
def claimed(output: Path, config: Config, folder: Path) -> Iterator[None]:
    """Make `output` ours while the block runs.

    Raises `UserError` when it cannot be made, lies in the images' `folder` (links in there are seen
    by the listing), holds something else or a run with other values, or when another process works
    in it."""
    check_folder(folder)
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(folder)):  # Path.resolve fails in loops
        raise among_images(output, folder)
    make_folder(output)
    check_writable(output)
    with locked(output):
        _recorded(output, config)
        yield


def bind(output: Path, config: Config, images: ImageList) -> None:
    """Record whose folder it is in run.json, or raise `UserError` when it is that of a run on other
    images."""
    before = _recorded(output, config)
    if before is None:
        record = {**config.identity(), "config_hash": config.hash(), "images": len(images),
                  "images_hash": images.sha256, "classes": len(images.classes)}
        write_text(output / "run.json", json.dumps(record, indent=2) + "\n")
    elif before.get("images_hash") != images.sha256:
        if images.names.path and images.names.path.parent == output.absolute():
            images.names.path.unlink()
        stamps.place(images, output).unlink(missing_ok=True)
        raise UserError(f"{output} holds a run on other images (then {before.get('images')}, now {len(images)}): "
                        "choose another --output")


def _recorded(output: Path, config: Config) -> dict[str, Any] | None:
    """The run.json of a run with these values; None in an empty folder."""
    path = output / "run.json"
    if not path.is_file():
        there = [name for name in LEFT_BY_A_RUN if (output / name).exists()]
        if there:
            raise UserError(f"{output} holds {', '.join(there)} but no run.json: expected an empty folder or one of a "
                            "run, choose another --output")
        return None
    before = None
    with contextlib.suppress(ValueError):  # not JSON: refused by `difference`, as everything that is no record
        before = json.loads(path.read_text(encoding="utf-8"))
    changed = config.difference(before, path)
    if changed and not has_work(output):  # it was refused before its first step, and is tried with other options
        path.unlink()
        return None
    if changed:
        raise UserError(f"{output} holds a run with other values ({'; '.join(changed)}): choose another --output, or "
                        "use the same options as before to resume")
    return before


def has_work(output: Path) -> bool:
    """Whether a run left something that took time: a checkpoint, or a line of metrics."""
    log = output / "metrics.jsonl"
    logged = log.is_file() and log.stat().st_size > 0
    return logged or any((output / "checkpoints").glob("*")) or (output / "done.json").exists()
