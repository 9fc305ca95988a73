"""One stage of the pipeline: a command, what decides its result, and whether that result is there already.

A stage's key is the hash of its numbers (the resolved values that change them), its inputs' hashes and its parents'
output hashes. It works in OUTPUT/NAME-KEY and is done when stage.json stands there: a changed value or input gives
another folder, an edited comment or edited code does not, and an interrupted stage finds its own folder again.

What a fine-tuning is evaluated on is no part of its key but stands in its stamp: other validation data finds the
finished training in the same folder and evaluates it again. `Stage.planned` is known without any output, from all that
the outputs follow from: by it a result is found whose work, and that of its parents, is long gone.
"""

import hashlib
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pretrain.common import lock
from pretrain.common.atomic import make_folder, sha256_file, write_text
from pretrain.common.errors import KILLED, USER_ERROR, UserError

STAMP = "stage.json"
FAILED = "failed.json"  # of the last start, when it was on this machine
MODEL = "model_final.pth"  # of a finished training


@dataclass
class Stage:
    """`command(folder, parents)` is the argument list of the work: `parents` maps a parent's name
    to its folder.

    `product` is the file or folder, inside the stage's folder, that others build on; its hash is
    the output hash. `finish(folder, key)` runs after the command, in this process. `kind` says what
    a job of it asks of a cluster; `task` is a fine-tuning's. `gates` are stages that must have
    passed first without being a part of the result. `evaluation` are hashes of what decides the
    result beside what was trained. `array` names the stages that may be one array of jobs.
    `gpu_hours` maps a kind of GPU to the estimated hours on one of them; `steps`, each of `batch`
    images, say how long it is. `core_hours`: estimated hours on one CPU core, 0 where they are not
    known.
    """

    name: str
    numbers: dict[str, Any]
    command: Callable[[Path, dict[str, Path]], list[str]]
    product: str
    inputs: dict[str, str] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    finish: Callable[[Path, str], None] | None = None
    cost: str = ""
    disk_gb: float = 0.0  # while it runs
    passing_gb: float = 0.0  # of these, what goes away at its end
    gates: tuple[str, ...] = ()
    evaluation: dict[str, str] = field(default_factory=dict)
    array: str = ""
    steps: int = 0
    batch: int = 0
    planned: str = ""  # by `plan_keys`
    kind: Literal["small", "pretrain", "preflight", "finetune", "probe"] = "small"
    task: str = ""
    gpu_hours: dict[str, float] = field(default_factory=dict)
    core_hours: float = 0.0

    def key(self, parent_outputs: dict[str, str]) -> str:
        """Identity of the result, as a SHA-256."""
        parents = {name: parent_outputs[name] for name in self.parents}
        return _sha256({"numbers": self.numbers, "inputs": self.inputs, "parents": parents})

    def result_key(self, key: str) -> str:
        """Identity of what was trained under `key` and evaluated as this stage says."""
        if not self.evaluation:
            return key
        return _sha256([key, self.evaluation])

    @property
    def needs(self) -> tuple[str, ...]:
        """All that must be done before it starts."""
        return self.parents + self.gates

    def folder(self, output: Path, key: str) -> Path:
        return output / f"{self.name}-{key[:8]}"


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class StageFailed(Exception):
    """A stage's command ended with another code than 0; below 0 it is a signal's number."""

    def __init__(self, stage: Stage, code: int, folder: Path) -> None:
        reason = f"exit code {code}"
        if code < 0:
            reason = f"signal {-code}"
        self.what = f"stage {stage.name} failed ({reason})"
        super().__init__(f"{self.what}; its files are in {folder}")
        self.code, self.folder = max(code, 1), folder
        self.killed = code in (-signal.SIGKILL, KILLED)


def by_name(stages: Iterable[Stage]) -> dict[str, Stage]:
    """The stages by their names, in their order."""
    return {stage.name: stage for stage in stages}


def plan_keys(stages: list[Stage]) -> None:
    """Set `planned` of each: the identity of its result as it is known before anything has run."""
    trained: dict[str, str] = {}  # by name, without what is evaluated
    for stage in stages:
        trained[stage.name] = stage.key(trained)
        stage.planned = stage.result_key(trained[stage.name])


def stage_folders(output: Path) -> dict[str, Path]:
    """The newest folder of each stage that has one in `output`, without knowing the stages."""
    found: dict[str, Path] = {}
    for folder in sorted(output.glob("*-*/"), key=lambda path: path.stat().st_mtime):
        name, _, key = folder.name.rpartition("-")
        if re.fullmatch("[0-9a-f]{8}", key):
            found[name] = folder
    return found


def hash_product(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files of a folder."""
    if path.is_file():
        return sha256_file(path)
    lines = []
    for file in sorted(path.rglob("*")):
        if file.is_file():
            lines.append(f"{file.relative_to(path).as_posix()} {sha256_file(file)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def read_stamp(stage: Stage, folder: Path, key: str) -> dict[str, Any] | None:
    """The stamp of a finished stage whose product is still what it was, else None."""
    stamp = glance(stage, folder, key)
    if stamp and hash_product(folder / stage.product) == stamp["output_sha256"]:
        return stamp
    return None


def glance(stage: Stage, folder: Path, key: str) -> dict[str, Any] | None:
    """As `read_stamp`, without reading the product: what is only shown need not wait for that."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    same = stamp["key"] == key and stamp.get("evaluation", {}) == stage.evaluation
    return stamp if same and (folder / stage.product).exists() else None


Reader = Callable[[Stage, Path, str], dict[str, Any] | None]  # `read_stamp` or `glance`


class Progress:
    """What is known of stages, parents first: folders and output hashes of those that are done, by name."""

    def __init__(self, output: Path, read: Reader = read_stamp) -> None:
        self.output, self.read = output, read
        self.hashes: dict[str, str] = {}
        self.folders: dict[str, Path] = {}

    def key(self, stage: Stage) -> str | None:
        """The stage's key, None as long as a parent is not done."""
        if not self.hashes.keys() >= set(stage.parents):
            return None
        return stage.key(self.hashes)

    def look(self, stage: Stage) -> dict[str, Any] | None:
        """The stamp of a finished stage; None when it has to run."""
        key = self.key(stage)
        stamp = key and self.read(stage, stage.folder(self.output, key), key)
        if stamp:
            self.done(stage, stamp)
        return stamp

    def done(self, stage: Stage, stamp: dict[str, Any]) -> None:
        self.hashes[stage.name], self.folders[stage.name] = (
            stamp["output_sha256"], stage.folder(self.output, stamp["key"]))


def finished(
    stages: Iterable[Stage], output: Path, read: Reader = read_stamp
) -> tuple[dict[str, Path], dict[str, str]]:
    """Folders and output hashes of the stages that are done, by name; parents must come before their children."""
    progress = Progress(output, read)
    for stage in stages:
        progress.look(stage)
    return progress.folders, progress.hashes


def left(stage: Stage, output: Path, hashes: dict[str, str]) -> Stage:
    """The stage itself or, of a fine-tuning whose training is finished, one that costs what its
    evaluation does.

    `hashes`: of the outputs of the finished stages.
    """
    if stage.kind != "finetune" or not set(stage.parents) <= hashes.keys():
        return stage
    if not (stage.folder(output, stage.key(hashes)) / MODEL).is_file():
        return stage
    return replace(stage, cost="an evaluation", gpu_hours={}, core_hours=0.0, disk_gb=0.1, passing_gb=0.0)


def run_stage(
    stage: Stage, output: Path, key: str, parents: dict[str, Path], run: Callable[[list[str]], int]
) -> dict[str, Any]:
    """Run the stage's command to its end, by `run`, which returns its exit code; returns the stamp.

    Raises `StageFailed`.
    """
    folder = stage.folder(output, key)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILED).unlink(missing_ok=True)
    started = time.monotonic()
    code = run(stage.command(folder, parents))
    if code:
        raise StageFailed(stage, code, folder)
    return finish_stage(stage, folder, key, started)


def finish_stage(stage: Stage, folder: Path, key: str, started: float) -> dict[str, Any]:
    """After the command, which began at `started` of the monotonic clock: finish, then write and
    return the stamp."""
    if not (folder / stage.product).exists():
        raise StageFailed(stage, 1, folder)
    if stage.finish is not None:
        try:
            stage.finish(folder, key)
        except (UserError, OSError) as error:  # of this stage alone: the others go on
            print(f"error: stage {stage.name}: {error}", file=sys.stderr, flush=True)
            raise StageFailed(stage, USER_ERROR, folder) from None
    stamp = {"name": stage.name, "key": key, "evaluation": stage.evaluation,
             "output_sha256": hash_product(folder / stage.product),
             "seconds": round(time.monotonic() - started, 1),
             "ended": datetime.now(UTC).isoformat(timespec="seconds")}
    write_text(folder / STAMP, json.dumps(stamp, indent=2) + "\n")
    return stamp


def locked(output: Path, patience: float = 120.0) -> AbstractContextManager[None]:
    """Only one run works in an output folder; its stages hold the lock too."""
    make_folder(output)
    return lock.locked(output, patience, inherited=True)
