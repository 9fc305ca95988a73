"""The order of an epoch: a keyed bijection of 0..n-1, computed for any position in constant time.

A Feistel network over the pairs (left, right) of Z_a x Z_b, where a is the square root of n and b
is n / a, both rounded up, and cycle walking for the few results outside 0..n-1: the generalised
Feistel cipher of Black and Rogaway (Ciphers with Arbitrary Finite Domains, CT-RSA 2002). The round
function is the finaliser of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number
Generators, OOPSLA 2014) on the other half plus the round's key. It mixes; it is no cryptography.
"""

import math

import numpy as np

ROUNDS = 12  # with 8 the first two of 5 or 6 images were no uniform pair; a round mixes little where a and b are small
MIX_1, MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S30, S27, S31 = np.uint64(30), np.uint64(27), np.uint64(31)


class EpochOrder:
    """Which of `images` images stands at which position of epoch `epoch`: `order[positions]`."""

    def __init__(self, images: int, seed: int, epoch: int) -> None:
        self.images = images
        self._a = np.uint64(math.isqrt(images - 1) + 1)  # the square root, rounded up
        self._b = np.uint64(-(-images // int(self._a)))
        self._keys = np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64)

    def __getitem__(self, positions: np.ndarray | range) -> np.ndarray:
        """The images' numbers, (N,) int64, at `positions`, (N,) of 0..images-1."""
        values = self._permuted(np.asarray(positions, np.uint64))
        while (outside := values >= self.images).any():
            values[outside] = self._permuted(values[outside])
        return values.astype(np.int64)

    def _permuted(self, values: np.ndarray) -> np.ndarray:
        """A permutation of 0..a*b-1, (N,) uint64."""
        left, right = values % self._a, values // self._a
        for number, key in enumerate(self._keys):
            if number % 2:
                right = (right + _mixed(left + key)) % self._b
            else:
                left = (left + _mixed(right + key)) % self._a
        return right * self._a + left


def _mixed(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> S30)) * MIX_1
    values = (values ^ (values >> S27)) * MIX_2
    # Half of the range: the sum with a value of the other half must not wrap round.
    return (values ^ (values >> S31)) >> np.uint64(1)
