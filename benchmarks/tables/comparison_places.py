"""Where comparisons stand: under the block of a table that has both of their results, and nowhere else."""

from collections.abc import Iterable
from itertools import chain

from benchmarks.records.comparisons import Comparison
from benchmarks.tables.trial_groups import Group


def stands_in(comparison: Comparison, groups: Iterable[Group]) -> bool:
    """Whether both results of a comparison are among these."""
    found = set()
    for group in groups:
        found |= {trial.predictions for trial in group.trials.values()}
    return comparison.predictions <= found


def without_place(comparisons: Iterable[Comparison], groups: Iterable[Group], hidden: set[str]
                  ) -> tuple[list[str], int]:
    """(one line for each comparison that no block can show, how many only wait for demo results to
    be shown).

    `hidden`: hashes of the predictions of results that are not shown.
    """
    blocks: dict[tuple, list[Group]] = {}
    for group in groups:
        blocks.setdefault((group.example["task"], group.block), []).append(group)
    lines, waiting = [], 0
    for one in comparisons:
        if any(one.task == task and stands_in(one, members) for (task, _), members in blocks.items()):
            continue
        if one.predictions & hidden:
            waiting += 1
        elif stands_in(one, chain.from_iterable(blocks.values())):
            lines.append(f"{one.file}: its two results stand in different blocks, which are not compared")
        else:
            lines.append(f"{one.file}: not both of its results are among those shown")
    return lines, waiting
