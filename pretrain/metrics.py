"""What a run writes down while it trains: metrics.jsonl for every program, TensorBoard for people."""

import contextlib
import json
import math
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from pretrain.atomic import write_text
from pretrain.distributed import Process


class MetricsLog:
    """metrics.jsonl and TensorBoard, from the main process; lines after the resumed step are dropped."""

    def __init__(self, output: Path, first_step: int, process: Process) -> None:
        self.path, self.active = output / "metrics.jsonl", process.is_main
        self.probed: set[int] = set()  # known to every process: a probe is done by all of them or by none
        kept = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a line that a kill cut off
                    entry = json.loads(line)
                    if entry["step"] <= first_step:
                        kept.append(line)
                        if "retrieval_backbone" in entry:
                            self.probed.add(entry["step"])
        if not self.active:
            return
        write_text(self.path, "".join(line + "\n" for line in kept))
        self.board = SummaryWriter(str(output / "tensorboard"), purge_step=first_step + 1)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.board.close()

    def has_probe(self, step: int) -> bool:
        return step in self.probed

    def probe(self, step: int, values: dict[str, float]) -> None:
        self._write(step, values)

    def step(self, step: int, result: dict[str, float], images_per_second: float, loader_wait: float) -> None:
        self._write(step, {**result, "images_per_second": round(images_per_second, 2),
                           "loader_wait": round(loader_wait, 4)})

    def _write(self, step: int, values: dict[str, float]) -> None:
        if not self.active or not values:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
