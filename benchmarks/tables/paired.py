"""One measured row minus another, fine-tuning by fine-tuning: the mean difference with its 95 % interval.

Two fine-tunings of the same trial and seed share head initialisation and data order: they are a
pair, and the difference of a pair scatters less than either. Where both rows were pretrained here
the pretrainings of the same seed are paired too. n counts pretrainings: the pairs of one are
averaged first. Standard library only.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev

from benchmarks.statistics.t_tests import critical_t, margin, one_sample_p
from benchmarks.tables.shown_text import MISSING, signed
from benchmarks.tables.trial_groups import Group, Trial, Unit

SAME_DIGITS = 9  # of a difference in percent: what differs later is rounding
Pair = tuple[Trial, Trial]  # two fine-tunings of the same trial and seed


@dataclass
class Difference:
    """A row minus the row `against` in one column, in percent points.

    `values`: the independent ones, the mean over the pairs of each pretraining (of each pair, where
    neither row was pretrained here). `doubt`: why there is no interval, or what the interval leaves
    out. `p` is that of the t-test of a mean of 0; `p_holm` is corrected for the `family`, which
    says what is in it.
    """

    against: str
    doubt: str
    pairs: Sequence[Pair] = ()
    values: tuple[float, ...] = ()
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
        ends = MISSING
        if self.interval:
            ends = f"{signed(self.interval[0])}, {signed(self.interval[1])}"
        return f"{signed(self.mean)} [{ends}] {self.count()}"

    def count(self) -> str:
        """How many independent values there are and, where they are fewer, of how many pairs."""
        text = f"n={len(self.values)}"
        if len(self.pairs) > len(self.values):
            text += f" of {len(self.pairs)} pairs"
        return text

    def provenance(self, column: str) -> list[str]:
        """How it was made, line by line."""
        lines = []
        for one, other in self.pairs:
            value, other_value = one.columns[column], other.columns[column]
            lines += [f"  {one.place.text()}: {value:.3f} - {other_value:.3f} = {value - other_value:+.3f}",
                      f"    {one.file}", f"    - {other.file}"]
        if self.interval:
            lines += [f"  mean {self.mean:+.3f}, deviation {stdev(self.values):.3f}, {self.count()}: 95 % interval "
                      f"with t = {critical_t(len(self.values) - 1):.3f}",
                      f"  p = {self.p:.2g}, with Holm's correction {self.p_holm:.2g} ({self.family})"]
        if self.doubt:
            lines.append(f"  {self.doubt}")
        return lines


def paired(row: Group, other: Group, column: str, against: str) -> Difference:
    """The difference of two rows in a column; `against` is what the other row is called."""
    pairs = _pairs(row, other, column)
    by_unit: dict[Unit, list[float]] = defaultdict(list)
    units_of: dict[Unit, set[Unit]] = defaultdict(set)  # of each partner
    for one, two in pairs:
        unit, partner = row.unit(one), other.unit(two)
        if other.pretrained_here and not row.pretrained_here:
            unit, partner = partner, unit
        by_unit[unit].append(round(one.columns[column] - two.columns[column], SAME_DIGITS))
        units_of[partner].add(unit)
    values = tuple(round(fmean(several), SAME_DIGITS) for several in by_unit.values())
    # Partners that stand in several of the values.
    shared = sum(len(units) > 1 for units in units_of.values())
    what = "pair"
    if row.pretrained_here or other.pretrained_here:
        what = "pretraining"
    doubt = ""
    if not values:
        doubt = "no fine-tuning of the same trial and seed in both rows"
    elif len(values) == 1:
        doubt = f"no interval: one {what} has no spread"
    elif margin(values) == 0.0:
        doubt = "no interval: all differences are equal"
    elif shared:
        doubt = (f"{len(values)} {what}s are paired with the same {shared}: the interval leaves out how far those "
                 "scatter")
    return Difference(against, doubt, pairs, values, one_sample_p(values))


def _pairs(row: Group, other: Group, column: str) -> list[Pair]:
    """All pairs in which both have a value, in the order of the trials.

    Where both rows were pretrained with some of the same seeds, only those stand in pairs, each
    with itself.
    """
    seeds = {trial.place.pretraining for trial in row.trials}
    same_seeds = seeds & {trial.place.pretraining for trial in other.trials} - {None}
    found = []
    for one, two in product(row.trials, other.trials):
        same_start = not same_seeds or one.place.pretraining == two.place.pretraining
        same_trial = one.place[1:] == two.place[1:]
        if same_trial and same_start and None not in (one.columns[column], two.columns[column]):
            found.append((one, two))
    return found
