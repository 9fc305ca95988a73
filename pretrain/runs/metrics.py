"""What a run records while it trains: metrics.jsonl for every program, TensorBoard for people."""

import contextlib
import json
import math
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pretrain.common.atomic import write_text
from pretrain.distributed import Process


def lines_until(path: Path, counter: str, last: int) -> list[tuple[str, dict]]:
    """(line, entry) of the lines of a log whose `counter` is at most `last`: later ones come again
    when a run resumes. A line that is no entry, such as one that a kill cut off, is left out. A
    missing file has no lines."""
    kept: list[tuple[str, dict]] = []
    if not path.is_file():
        return kept
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry[counter] <= last:
                kept.append((line, entry))
    return kept


class MetricsLog:
    """metrics.jsonl and TensorBoard, from the main process; lines after the resumed step are
    dropped."""

    def __init__(self, output: Path, first_step: int, process: Process) -> None:
        self.path, self.active = output / "metrics.jsonl", process.is_main
        self.probed: set[int] = set()  # known to every process: a probe is done by all of them or by none
        kept = lines_until(self.path, "step", first_step)
        for _, entry in kept:
            if "retrieval_backbone" in entry:
                self.probed.add(entry["step"])
        if not self.active:
            return
        write_text(self.path, "".join(line + "\n" for line, _ in kept))
        self.board = SummaryWriter(str(output / "tensorboard"), purge_step=first_step + 1)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.board.close()

    def step(self, step: int, result: dict[str, float], images_per_second: float, loader_wait: float) -> None:
        self.write(step, {**result, "images_per_second": round(images_per_second, 2),
                           "loader_wait": round(loader_wait, 4)})

    def write(self, step: int, values: dict[str, float]) -> None:
        """Metrics after `step` optimizer steps, by name; null where they are not finite."""
        if not self.active or not values:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
