"""unreadable.log and nonfinite.log: the images that a run could not read, and those of its skipped steps.

One line an image, its name as pretrain/common/one_line.py writes it.
"""

from pathlib import Path

from pretrain.common.errors import UserError
from pretrain.common.one_line import escaped, unescaped
from pretrain.data.batches import Batch
from pretrain.distributed import Process


class UnreadableLog:
    """Images that could not be read and were replaced, named once each, also over a restart; too
    many end the run.

    `images`: how many the run has; `most`: the share of them that may be unreadable, 0..1.
    """

    def __init__(self, output: Path, process: Process, images: int, most: float) -> None:
        self.path, self.images, self.most = _log(output, "unreadable", process), images, most
        self.known: dict[str, str] = {}  # name: reason
        if self.path.is_file():
            content = self.path.read_bytes().decode("utf-8", "surrogateescape")
            for line in filter(None, content.split("\n")):  # the last may be half a line
                name, _, why = line.partition(": ")
                self.known[unescaped(name)] = why

    def note(self, batch: Batch) -> None:
        """Write down what is new in a batch. Raises `UserError` when there are too many."""
        text = ""
        for name, why in batch.unreadable.items():
            if name not in self.known:
                text += f"{escaped(name)}: {why}\n"
        if not text:
            return
        self.known |= batch.unreadable
        with open(self.path, "ab") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        limit = max(self.most * self.images, 1) if self.most else 0
        if len(self.known) > limit:  # over the epochs each process meets nearly all images
            name, why = next(iter(self.known.items()))
            raise UserError(f"{len(self.known)} of {self.images} images cannot be read, expected at most a share of "
                            f"{self.most:g} (max_corrupt_share); the first is {escaped(name)} ({why}), all are named "
                            f"in {self.path}")


def note_nonfinite(output: Path, process: Process, step: int, images: list[str]) -> Path:
    """Name the images of a skipped step, counted from 1, in nonfinite.log, which is returned; once
    over restarts."""
    log = _log(output, "nonfinite", process)
    with open(log, "a+", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        file.seek(0)
        if f"\nstep {step}: " not in "\n" + file.read():
            file.writelines(f"step {step}: {escaped(name)}\n" for name in images)
    return log


def _log(output: Path, name: str, process: Process) -> Path:
    return output / (f"{name}.log" if process.is_main else f"{name}-{process.rank}.log")
