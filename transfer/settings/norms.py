"""Batch norm in a detectron2 config: which kind this machine can have."""

from collections.abc import Mapping

from detectron2.config import CfgNode

from transfer.records.identity import flatten

NORM_KEYS = ("MODEL.RESNETS.NORM", "MODEL.FPN.NORM", "MODEL.ROI_BOX_HEAD.NORM", "MODEL.ROI_MASK_HEAD.NORM")
SYNCHRONISED = ("SyncBN", "naiveSyncBN")


def fit_to_machine(cfg: CfgNode, processes: int, device: str) -> None:
    """SyncBN needs several CUDA processes: with one it is BN (the same sums), on CPUs detectron2's own version."""
    if processes == 1:
        _replace(cfg, {"SyncBN": "BN"})
    elif device == "cpu":
        _replace(cfg, {"SyncBN": "naiveSyncBN"})


def fit_to_evaluation(cfg: CfgNode) -> None:
    """The same layers without an exchange: an evaluation takes its sums from none."""
    _replace(cfg, dict.fromkeys(SYNCHRONISED, "BN"))


def _replace(cfg: CfgNode, others: Mapping[str, str]) -> None:
    found = flatten(cfg)
    for key in NORM_KEYS:
        if found[key] in others:
            cfg.merge_from_list([key, others[found[key]]])
