"""The random starts that every table has beside the pretrained ones. Standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RandomStart:
    """Random weights of a backbone, and what they are called.

    `row`: in the tables and results. `weights`: as `--weights` of a fine-tuning. `method`: as
    `--methods` of the suite. `msra_pixels`: fed as MSRA's networks are; `zero_gamma`: the last
    batch-norm gamma of each block is 0, else 1.
    """

    row: str
    weights: str
    method: str
    text: str
    msra_pixels: bool = False
    zero_gamma: bool = False


RAND = RandomStart("Rand init", "random", "rand", "the pixels of the self-supervised methods")
RANDOM_STARTS = (
    RAND,
    RandomStart("Rand init (MSRA pixels)", "random-msra", "rand_msra",
                "BGR, std 1, stride in the 1x1: the literature's random rows", msra_pixels=True),
    RandomStart("Rand init (zero gamma)", "random-zero-gamma", "rand_zero_gamma",
                "the last batch-norm gamma of each block 0", zero_gamma=True),
)
PROBED_ZERO_GAMMA = "Rand init, last gamma 0"  # the second random network of a probe
