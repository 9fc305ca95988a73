"""A fine-tuning's checkpoints: written whole or not at all, the newest two kept, the newest good one found again."""

import re
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
    """detectron2's checkpoints, by name: model_NUMBER.pth after iteration NUMBER, counted from 0, then `FINAL`."""

    def save(self, name: str, **extra: object) -> None:
        """Write NAME.pth with model and `extra` and, before the end, the trainer. The one before it stays in case that
        this one is damaged; beside the final one none does."""
        if not self.save_to_disk:
            return
        content = {"model": self.model.state_dict(), **extra}
        if f"{name}.pth" != FINAL:
            content |= {key: part.state_dict() for key, part in self.checkpointables.items()}
        path = Path(self.save_dir, f"{name}.pth")
        with atomic_path(path) as sibling:
            torch.save(content, sibling)
        write_text(Path(self.save_dir, "last_checkpoint"), path.name)
        before = [old for old in self._numbered() if path.name != FINAL and old.name < path.name][:1]
        others = [old for old in self._numbered() if old != path and old not in before]
        for old in others + list(Path(self.save_dir).glob(".model_*.part.pth")):  # the latter of killed runs
            old.unlink()

    def newest_good(self) -> Path | None:
        """The newest checkpoint that is whole, the same on every process; damaged ones are passed over, and named."""
        found = self._look() if comm.is_main_process() else None
        return comm.all_gather(found)[0]

    def _look(self) -> Path | None:
        final = Path(self.save_dir, FINAL)
        for path in ([final] if final.is_file() else []) + self._numbered():
            try:
                archive.check(path)
                self._check_own(path, torch.load(path, map_location="cpu", weights_only=True, mmap=True))
            except Exception as error:  # a damaged pickle can raise anything
                why = str(error) if isinstance(error, UserError) else f"{path} cannot be read"
                print(f"passed over: {why.partition(': download')[0]}", file=sys.stderr)
            else:
                return path
        return None

    def _check_own(self, path: Path, content: object) -> None:
        """Raise when a whole file is no checkpoint of this model, or of another iteration than its name says."""
        model = content.get("model") if isinstance(content, dict) else None
        own = isinstance(model, dict) and model.keys() == self.model.state_dict().keys()
        if path.name != FINAL:
            own = own and "trainer" in content and path.stem == f"model_{content.get('iteration', -1):07d}"
        if not own:
            raise UserError(f"{path} is no checkpoint of this run")

    def _numbered(self) -> list[Path]:
        """The newest first."""
        return sorted((path for path in Path(self.save_dir).glob("model_*.pth") if re.search(r"_\d+$", path.stem)),
                      reverse=True)


def steps_done(checkpoint: Path | None) -> int:
    """Iterations behind a checkpoint that is not the final one."""
    return 0 if checkpoint is None else int(checkpoint.stem.removeprefix("model_")) + 1
