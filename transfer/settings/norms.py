"""Batch norm in a detectron2 config: which kind so many processes have.

SyncBN is the fine-tuning's own layer, `transfer.finetuning.batch_norm`, on GPUs and CPUs. The
others keep their meaning where somebody sets them by hand: nnSyncBN is torch's SyncBatchNorm,
naiveSyncBN detectron2's own, which gives each process the same weight.
"""

import operator
from collections.abc import Mapping

from detectron2.config import CfgNode

from transfer.records.identity import NORM_KEYS, flatten

JOINED = "SyncBN"
SYNCHRONISED = (JOINED, "naiveSyncBN")


def fit_to_machine(cfg: CfgNode, processes: int) -> None:
    """SyncBN needs several processes: with one it is BN (the same sums)."""
    if processes == 1:
        _replace(cfg, {JOINED: "BN"})


def is_joined(cfg: CfgNode) -> bool:
    """Whether a layer of `cfg` is `transfer.finetuning.batch_norm`'s."""
    return JOINED in operator.itemgetter(*NORM_KEYS)(flatten(cfg))


def fit_to_evaluation(cfg: CfgNode) -> None:
    """The same layers without an exchange: an evaluation takes its sums from none."""
    _replace(cfg, dict.fromkeys(SYNCHRONISED, "BN"))


def _replace(cfg: CfgNode, others: Mapping[str, str]) -> None:
    found = flatten(cfg)
    for key in NORM_KEYS:
        if found[key] in others:
            cfg.merge_from_list([key, others[found[key]]])
