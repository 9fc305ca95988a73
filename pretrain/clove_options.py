"""The options of the objective CLoVE, and the two presets of them.

`released`, the default, follows the authors' released code (sthalles/CLoVE d706573), so that curves
can be compared; `paper` follows the poster. Every difference between them is one value in `VARIANTS`.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from pretrain.common.errors import UserError
from pretrain.objective import ObjectiveOptions
from pretrain.options.option import option
from pretrain.options.shared_options import Runtime, Train

VARIANTS: dict[str, dict[str, Any]] = {
    "released": {},  # the defaults
    "paper": {
        "box_frame": "edges",
        "t_pos_unit": "cell_diagonal",
        "negatives_exclude": "top1",
        "negative_similarity": "mean_vector",
        "hinge": "pair",
        "negative_queries": "matched",
        "too_few_negatives": "use_left",
        "loss_scale": 1.0,
        "ema_timing": "after_step",
    },
}


@dataclass(frozen=True)
class CloveOptions(ObjectiveOptions):
    """CLoVE's own options; the shared ones are `pretrain.config.Train`."""

    variant: Literal["released", "paper"] = option(
        "released", "preset: the released code's algorithm or the poster's")
    projector_hidden: int = option(4096, "channels of the projector's hidden layer", above=0)
    projector_dim: int = option(256, "channels of a local embedding", above=0)
    heads: int = option(8, "attention heads", above=0)
    attention: Literal["plain", "normalized", "none"] = option(
        "plain", "plain: released attention; normalized: L2-normalised queries and keys; none: ablation")
    attention_temperature: float = option(
        0.2, "temperature of the normalized attention (plain uses 1/sqrt(d))", above=0)

    t_pos: float = option(0.7, "cells closer than this are a positive pair (eq. 1)", above=0)
    t_pos_unit: Literal["cell_diagonal", "cell_diagonal_fraction", "pixel"] = option(
        "cell_diagonal_fraction",
        "of t_pos: larger cell diagonal with lengths in source pixels (a reading of the poster); the same with each "
        "axis as a fraction of its image side (released); source pixels (literal)")
    lambda_pos: float = option(2.0, "lambda of eq. 2, weight of the positive cosine")
    mu: float = option(50.0, "margin mu of eq. 2 (released: margin 100 times 1/2)")
    k: int = option(10, "teacher vectors the negative is made of, the top k; the first is dropped", at_least=2)
    negatives_exclude: Literal["top1", "positives_and_top1"] = option(
        "positives_and_top1",
        "what may not be a negative: the most similar cell (poster), or all positives too (released)")
    negative_similarity: Literal["mean_vector", "mean_cosine"] = option(
        "mean_cosine", "cosine with the mean of the k-1 vectors (poster) or mean of their cosines (released)")
    hinge: Literal["pair", "image"] = option("image", "hinge per positive pair (poster) or per image (released)")
    negative_queries: Literal["matched", "all"] = option(
        "all", "cells whose negatives count: those with a positive, or all of the view (released); read with hinge "
               "image alone, a pair has its cell")
    too_few_negatives: Literal["use_left", "zero"] = option(
        "zero", "fewer than k candidates: average what is left, or the image's term is 0 (released)")
    reduction: Literal["mean", "sum"] = option(
        "mean", "over the pairs of one image and view pair: mean, or the poster's literal sum")
    loss_scale: float = option(2.0, "constant factor of the loss (released: 2)", above=0)

    teacher_momentum: float = option(
        0.99, "momentum (EMA) of the teacher at the start; cosine to 1", at_least=0, at_most=1)
    ema_timing: Literal["after_step", "before_step"] = option(
        "before_step", "teacher update after the optimizer step, or one step behind (released)")

    @classmethod
    def preset(cls, given: dict[str, Any]) -> dict[str, Any]:
        return VARIANTS[given.get("variant", "released")]

    def matching(self) -> tuple[float, str]:
        return self.t_pos, self.t_pos_unit

    def check(self, train: Train, runtime: Runtime) -> None:
        cells = math.ceil(train.global_size / (16 * train.last_stage_stride)) ** 2
        needed = self.k if self.too_few_negatives == "zero" else 2
        if cells < needed:
            raise UserError(f"global_size {train.global_size} gives {cells} teacher cell{'s' * (cells > 1)}, expected "
                            f"at least {needed} (k {self.k}, too_few_negatives {self.too_few_negatives}): without "
                            "negatives the loss is 0")
        if self.projector_dim % self.heads:
            raise UserError(f"projector_dim must be a multiple of heads, found {self.projector_dim} and {self.heads}")
