"""Checkpoints of a fine-tuning: written whole or not at all; the newest two stay."""

import sys
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from pretrain.common.atomic import atomic_path, write_text
from pretrain.common.errors import UserError
from transfer.reading import archive

FINAL = "model_final.pth"


class Checkpoints(DetectionCheckpointer):
    """detectron2's checkpoints: model_NUMBER.pth after iteration NUMBER, counted from 0, then
    `FINAL`."""

    def save(self, name: str, **extra: object) -> None:
        """Write NAME.pth with model and `extra` and, before the end, the trainer.

        The checkpoint before it stays in case this one gets damaged; beside the final one none
        does.
        """
        if not self.save_to_disk:
            return
        path = Path(self.save_dir, f"{name}.pth")
        content = {"model": self.model.state_dict(), **extra}
        kept = [path]
        if path.name != FINAL:
            for key, part in self.checkpointables.items():
                content[key] = part.state_dict()
            kept += [old for old in self._numbered() if old.name < path.name][:1]
        with atomic_path(path) as sibling:
            torch.save(content, sibling)
        write_text(Path(self.save_dir, "last_checkpoint"), path.name)
        for old in self._numbered():
            if old not in kept:
                old.unlink()

    def newest_good(self) -> Path | None:
        """The newest checkpoint that is whole, the same on every process; damaged ones are skipped
        with a warning."""
        return comm.all_gather(self._look() if comm.is_main_process() else None)[0]

    def _look(self) -> Path | None:
        there = self._numbered()
        final = Path(self.save_dir, FINAL)
        if final.is_file():
            there.insert(0, final)
        for path in there:
            problem = self._problem(path)
            if problem is None:
                return path
            print(f"warning: checkpoint skipped: {problem}", file=sys.stderr)
        return None

    def _problem(self, path: Path) -> str | None:
        """What is wrong with a checkpoint, or with its model, or with the iteration in its name."""
        try:
            archive.check(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            own = content["model"].keys() == self.model.state_dict().keys()
            if path.name != FINAL:
                own = own and "trainer" in content and path.stem == f"model_{content['iteration']:07d}"
        except UserError as error:
            return str(error).partition(": download")[0]
        except Exception:  # a damaged pickle can raise anything
            own = False
        return None if own else f"{path} is damaged or not a checkpoint of this run"

    def _numbered(self) -> list[Path]:
        """Those before the final one, the newest first."""
        files = Path(self.save_dir).glob("model_*.pth")
        return sorted((path for path in files if path.stem.removeprefix("model_").isdecimal()), reverse=True)


def steps_done(checkpoint: Path | None) -> int:
    """Iterations behind a checkpoint that is not the final one."""
    if checkpoint is None:
        return 0
    return int(checkpoint.stem.removeprefix("model_")) + 1
