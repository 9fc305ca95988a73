"""What all processes of a fine-tuning, and all its starts, have in common: code, config, training images."""

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

from pretrain import agreement
from pretrain.common.errors import UserError
from pretrain.data import stamps
from pretrain.data.images import ImageList
from transfer.records import identity
from transfer.records.code_hash import finetuning_sha256
from transfer.settings import resolved_config


class SameRun:
    """What this process compares with the others; made once, before the first step.

    `resumes`: whether a checkpoint is there. Raises `UserError` on every process when the training
    images have changed since the run began.
    """

    def __init__(self, cfg: CfgNode, task: str, resumes: bool) -> None:
        self.cfg, self.code = cfg, finetuning_sha256(task)
        name, = cfg.DATASETS.TRAIN
        records = DatasetCatalog.get(name)
        names = sorted({records[place]["file_name"] for place in range(len(records))})
        images, problem = ImageList("", names), None
        try:
            if comm.is_main_process():
                sizes = stamps.record_or_compare(images, Path(cfg.OUTPUT_DIR), resumes)
            else:
                sizes = stamps.sizes_sha256(images)
        except UserError as error:
            sizes, problem = "", str(error)
        problem = comm.all_gather(problem)[0]
        if problem:
            raise UserError(problem)
        self.images = f"{images.sha256} {sizes}"

    def check(self) -> None:
        """Raise `UserError` on every process unless all have the same code, config and images."""
        options = identity.flatten(resolved_config.plain(self.cfg))
        options.pop("DATALOADER.NUM_WORKERS")  # may differ from process to process
        problem = agreement.difference(comm.all_gather(agreement.facts(self.code, options, self.images)))
        if problem:
            raise UserError(problem)
