"""metrics.json and TensorBoard of a fine-tuning: the same curves whether or not it was interrupted.

A value that is written is the median of the last iterations, so a checkpoint holds those.
"""

import contextlib
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter

from pretrain.common.atomic import write_text
from pretrain.runs.metrics import lines_until

METRICS = "metrics.json"  # one object a line
WINDOW = 20  # iterations that a value is smoothed over: the writers' own
# Seconds. IterationTimer leaves the first iterations after each start out: an old value would be written again.
TIMES = ("time", "data_time", "rank_data_time")


class Curves(HookBase):
    """Writes every `period` iterations and after the last one. Stands before the hook that saves:
    what a checkpoint knows is written, and nothing else is when a run stops.

    `done`: iterations behind the start; later lines go, for they come again. Only the first process
    has writers.
    """

    def __init__(self, folder: str, period: int, done: int) -> None:
        self.period, self.kept = period, None
        self.writers: list[EventWriter] = []
        if comm.is_main_process():
            last = _keep_lines(Path(folder, METRICS), done - 1)
            self.writers = [JSONWriter(str(Path(folder, METRICS))),
                            TensorboardXWriter(folder, purge_step=done or None)]
            for writer in self.writers:
                writer._last_write = last  # values of iterations up to it are not written again

    def before_train(self) -> None:
        for name, rows in (self.kept or {}).items():
            for value, iteration, smoothed in rows:
                self.trainer.storage.put_scalar(name, value, smoothing_hint=smoothed, cur_iter=iteration)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            for writer in self.writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self.writers:
            with contextlib.suppress(OSError):  # a full disk, which the run has met already
                writer.close()

    def state_dict(self) -> dict:
        """{name: [(value, iteration, whether it is smoothed), ...]} of the last iterations."""
        storage, state = self.trainer.storage, {}
        for name, history in storage.histories().items():
            if name not in TIMES:
                rows = history.values()[-WINDOW:]
                state[name] = [(value, iteration, storage.smoothing_hints()[name]) for value, iteration in rows]
        return state

    def load_state_dict(self, state: dict) -> None:
        self.kept = state


def _keep_lines(path: Path, last: int) -> int:
    """Drop the lines of iterations after `last`; returns that of the last line, -1 without one."""
    if not path.is_file():
        return -1
    kept = lines_until(path, "iteration", last)
    write_text(path, "".join(line + "\n" for line, _ in kept))
    return max((entry["iteration"] for _, entry in kept), default=-1)
