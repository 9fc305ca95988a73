"""One measured row minus another, fine-tuning by fine-tuning: the mean difference with its 95 % interval.

Two fine-tunings of the same trial and seed share head initialisation and data order: they are a
pair, and the difference of a pair scatters less than either. Where both rows were pretrained here
the pretrainings of the same seed are paired too. n counts pretrainings: the pairs of one are
averaged first. Standard library only.
"""

from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev

from benchmarks.statistics.t_tests import critical_t, margin, one_sample_p
from benchmarks.tables.shown_text import MISSING, signed
from benchmarks.tables.trial_groups import Group, Place, Unit

SAME_DIGITS = 9  # of a difference in percent: what differs later is rounding


@dataclass(frozen=True)
class Pair:
    """Two fine-tunings of the same trial and seed, their files, and their values in percent."""

    place: Place
    other: Place
    file: str
    other_file: str
    value: float
    other_value: float


@dataclass(frozen=True)
class Difference:
    """A row minus the row `against` in one column, in percent points.

    `values`: the independent ones, the mean over the pairs of each pretraining (of each pair, where
    neither row was pretrained here). `doubt`: why there is no interval, or what the interval leaves
    out. `p` is that of the t-test of a mean of 0; `p_holm` is corrected for the `family`, which
    says what is in it.
    """

    against: str
    pairs: tuple[Pair, ...]
    values: tuple[float, ...]
    doubt: str
    p: float | None = None
    p_holm: float | None = None
    family: str = ""

    @property
    def mean(self) -> float | None:
        """The mean of the independent values; None without a pair."""
        return fmean(self.values) if self.values else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The two ends of the 95 % interval; None where it is not defined, which `doubt` says."""
        half = margin(self.values)
        return (self.mean - half, self.mean + half) if half else None

    def text(self) -> str:
        """As it is shown: "+3.3 [-10.8, +17.5] n=3"; "-" for what is not defined."""
        if not self.values:
            return MISSING
        ends = ", ".join(map(signed, self.interval)) if self.interval else MISSING
        return f"{signed(self.mean)} [{ends}] {self.count()}"

    def count(self) -> str:
        """How many independent values there are and, where they are fewer, of how many pairs."""
        text = f"n={len(self.values)}"
        if len(self.pairs) > len(self.values):
            text += f" of {len(self.pairs)} pairs"
        return text

    def provenance(self) -> list[str]:
        """How it was made, line by line."""
        lines = []
        for pair in self.pairs:
            lines += [f"  {place_text(pair.place)}: {pair.value:.3f} - {pair.other_value:.3f} = "
                      f"{pair.value - pair.other_value:+.3f}", f"    {pair.file}", f"    - {pair.other_file}"]
        if self.interval:
            lines.append(f"  mean {self.mean:+.3f}, deviation {stdev(self.values):.3f}, {self.count()}: 95 % interval "
                         f"with t = {critical_t(len(self.values) - 1):.3f}")
            lines.append(f"  p = {self.p:.2g}, with Holm's correction {self.p_holm:.2g} ({self.family})")
        if self.doubt:
            lines.append(f"  {self.doubt}")
        return lines


def paired(row: Group, other: Group, column: str, against: str) -> Difference:
    """The difference of two rows in a column; `against` is what the other row is called."""
    pairs = _pairs(row, other, column)
    by_unit: dict[Unit, list[float]] = defaultdict(list)
    units_of: dict[Unit, set[Unit]] = defaultdict(set)  # of each partner
    for pair in pairs:
        unit, partner = row.unit(pair.place), other.unit(pair.other)
        if other.pretrained_here and not row.pretrained_here:
            unit, partner = partner, unit
        by_unit[unit].append(round(pair.value - pair.other_value, SAME_DIGITS))
        units_of[partner].add(unit)
    values = tuple(round(fmean(several), SAME_DIGITS) for several in by_unit.values())
    shared = sum(len(units) > 1 for units in units_of.values())
    what = "pretraining" if row.pretrained_here or other.pretrained_here else "pair"
    return Difference(against, tuple(pairs), values, _doubt(values, shared, what), one_sample_p(values))


def _pairs(row: Group, other: Group, column: str) -> list[Pair]:
    """All pairs in which both have a value, in the order of the trials.

    Where both rows were pretrained with some of the same seeds, only those stand in pairs, each
    with itself.
    """
    seeds = {place.pretraining for place in row.trials if row.pretrained_here}
    same_seeds = seeds & {place.pretraining for place in other.trials if other.pretrained_here}
    found = []
    for (place, trial), (its_place, its_trial) in product(row.trials.items(), other.trials.items()):
        values = trial.columns[column], its_trial.columns[column]
        same_start = not same_seeds or place.pretraining == its_place.pretraining
        if place[1:] == its_place[1:] and same_start and None not in values:
            found.append(Pair(place, its_place, trial.file, its_trial.file, *values))
    return found


def _doubt(values: tuple[float, ...], shared: int, what: str) -> str:
    """Why there is no interval, or what it leaves out; `shared`: partners that stand in several of
    the values."""
    if not values:
        return "no fine-tuning of the same trial and seed in both rows"
    if len(values) == 1:
        return f"no interval: one {what} has no spread"
    if margin(values) == 0.0:
        return "no interval: all differences are equal"
    if shared:
        return f"{len(values)} {what}s are paired with the same {shared}: the interval leaves out how far those scatter"
    return ""


def place_text(place: Place) -> str:
    """Which fine-tuning it is, in words."""
    text = f"trial {place.trial}, seed {place.seed}"
    if place.pretraining is not None:
        text += f" of pretraining {place.pretraining}"
    return text
