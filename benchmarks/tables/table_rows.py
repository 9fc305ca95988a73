"""The rows of a table before anybody formats them: printed ones, measured ones, differences, and what is said of them.

Printed and measured rows never look alike: `Row.kind` decides the look, and every format knows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.records.comparisons import Comparison
from benchmarks.records.imported import Imported
from benchmarks.records.paper_tables import column_names, main_columns, remarks
from benchmarks.records.reported import ReportedRow, printed
from benchmarks.tables.comparison_places import stands_in
from benchmarks.tables.paired import Difference
from benchmarks.tables.ranking import PRETRAININGS_FOR_BOLD, Sample, compare, places
from benchmarks.tables.suspicious_rows import RANDOM, Expectations, below_random, outside
from benchmarks.tables.trial_groups import (
    ANNOTATIONS,
    DEMO,
    OTHER_PROTOCOL,
    OWN_DATA,
    PAPER,
    Group,
    data_hash,
    dataset_name,
    distinctions,
)
from transfer.tasks import Task

MISSING = "-"
LOOK_AGAIN, STALE = "(!)", "(stale)"
PRINTED, MEASURED, DIFFERENCE, IMPORTED = "printed", "measured", "difference", "imported"  # the kinds of rows
IMPORTED_NOTE = "Made elsewhere and imported: nothing here vouches for how; each row names its file."
BLOCK_NOTES = {
    OTHER_PROTOCOL: "Measured here on the paper's data, but not as the paper did it: not comparable with its rows.",
    OWN_DATA: "Measured here on other data than the paper's: not comparable with its rows.",
    DEMO: "A few iterations, as a rule on small generated images: these rows show that the pipeline runs "
          "and say nothing about quality.",
}
HOW_MEASURED = "Measured rows: mean ± sample standard deviation over n trials; n=1 is a single run, no error bar."
KNOWN_NOISE = " Single runs on COCO are known to vary by about 0.3 AP."
HOW_PRINTED = "Figures in italics are printed in papers; upright ones were measured here."
DIFFERENCES = (" \"Measured - paper\" is a difference of unrounded means: to the paper's row of the same method and "
               "epochs.")
PRETRAINED_HERE = (" Where a method was pretrained here, mean and deviation are over the means of its pretrainings, "
                   "for fine-tunings of one pretraining are not independent; with one pretraining the deviation is "
                   f"over its fine-tunings alone. Bold needs {PRETRAININGS_FOR_BOLD} pretrainings there.")
FROM_ELSEWHERE = " A checkpoint from elsewhere is one pretraining: its deviation is over its fine-tunings alone."
CODE_UNKNOWN = "code unknown: no hash of the fine-tuning's code was recorded, so nobody can tell whether it is stale"
STALE_MEANS = f"{STALE}: the fine-tuning's code or configs have changed since; run the stage again to be sure."


@dataclass(frozen=True)
class Cell:
    """One figure as it is shown. `place` in its column: best, leading, second (see ranking) or none of them."""

    text: str
    place: str = ""
    mean: float | None = None
    deviation: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Row:
    """One row; `group` has the trials behind a measured one, `parts` the two rows that a difference is of.

    `differences`: of a measured row to another one, by column; empty where there is none.
    """

    kind: str
    method: str
    epochs: int | None
    cells: dict[str, Cell]
    source: str
    group: Group | None = None
    parts: tuple["Row", ...] = ()
    differences: dict[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Block:
    """Rows that may be compared, under a heading (none: the table itself), with the lines that stand under them."""

    heading: str
    note: str
    rows: list[Row]
    remarks: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TableModel:
    """A whole table. A block without heading is the paper's, with what was measured under its protocol.

    `against`: the row that its measured rows are compared with, if any.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    in_poster: bool
    blocks: list[Block]
    notes: list[str]
    against: str = ""


def build_table(task: Task, reported: list[ReportedRow], groups: list[Group], expectations: Expectations,
                code: str | None = None, imported: Sequence[Imported] = (),
                comparisons: Sequence[Comparison] = ()) -> TableModel:
    """The table of a task: its printed, measured and imported rows.

    `code`: hash of today's fine-tuning; rows of another one are stale. `comparisons` stand under the block that has
    both of their results.
    """
    table = task.table
    by_block: dict[tuple, list[Group]] = {}
    for group in groups:
        by_block.setdefault(group.block, []).append(group)
    own_data = not reported and not imported and all(group.block[0] == OWN_DATA for group in groups)
    rows, remarks = _printed_rows(task, reported)
    under_protocol = by_block.pop((PAPER, ""), [])
    measured = _measured(task, under_protocol, reported, expectations, code, rows)

    def tests(block: Block, members: list[Group]) -> list[str]:
        return block.tests + [one.text for one in comparisons if one.task == task.name and stands_in(one, members)]

    blocks = [Block("", "", rows + measured.rows, remarks + measured.remarks, tests(measured, under_protocol))]
    for (kind, heading), members in sorted(by_block.items(), key=lambda item: item[0]):
        block = _measured(task, members, reported, {}, code)
        note = "" if own_data else BLOCK_NOTES[kind]  # which compares with printed rows
        blocks.append(Block(heading, note, block.rows, block.remarks, tests(block, members)))
    if imported:
        blocks.append(Block("Imported", IMPORTED_NOTE, [_imported_row(row, task) for row in imported]))
    blocks = [block for block in blocks if block.rows]
    title = _title_of_own_data(task, groups) if own_data else table.title
    notes = [table.note] if table.note and not own_data else []
    if groups:
        notes.append(HOW_MEASURED + (KNOWN_NOISE if "COCO" in table.data and not own_data else ""))
        if any(group.pretrained_here for group in groups):
            notes[-1] += PRETRAINED_HERE
        if any(group.from_elsewhere for group in groups):
            notes[-1] += FROM_ELSEWHERE
        if any(row.kind == DIFFERENCE for block in blocks for row in block.rows):
            notes[-1] += DIFFERENCES
        if any(STALE in row.source for block in blocks for row in block.rows):
            notes.append(STALE_MEANS)
    if reported:
        notes.append(HOW_PRINTED)
    return TableModel(table.name, title, column_names(task), table.in_poster, blocks, notes)


def _title_of_own_data(task: Task, groups: list[Group]) -> str:
    """What the task is, on the datasets that were measured instead of the published one."""
    names = sorted({dataset_name(group.example) or "own data" for group in groups})
    return f"{task.table.title.partition(' on ')[0]} on {', '.join(names)}"


def epochs_text(epochs: int | None) -> str:
    """Epochs as they are shown."""
    return MISSING if epochs is None else str(epochs)


def row_name(method: str, epochs: int | None) -> str:
    """What a row is called: its method and epochs, if it has any."""
    return method if epochs is None else f"{method} {epochs}"


def _printed_rows(task: Task, reported: list[ReportedRow]) -> tuple[list[Row], list[str]]:
    columns, random = column_names(task), printed(reported, RANDOM, None)
    ranks = {column: places([float(row.values[column]) if column in row.values else None for row in reported])
             for column in columns}
    rows, remarks = [], []
    for number, row in enumerate(reported):
        found = below_random(printed(reported, row.method, row.epochs), random, main_columns(task))
        remarks += [f"{row.method} {epochs_text(row.epochs)} as printed: {text}" for text in found]
        cells = {}
        for column in columns:
            value = row.values.get(column)
            cells[column] = (Cell(MISSING) if value is None else
                             Cell(f"{value:.1f}", ranks[column][number], float(value)))
        rows.append(Row(PRINTED, row.method, row.epochs, cells,
                        f"paper ({row.source})" + (f" {LOOK_AGAIN}" if found else "")))
    return rows, remarks


def _measured(task: Task, groups: list[Group], reported: list[ReportedRow], expectations: Expectations,
              code: str | None, papers: Sequence[Row] = ()) -> Block:
    """The measured rows of one block in the paper's order, the others after them, each with its differences.

    `papers`: printed rows that the measured ones may be compared with.
    """
    columns = column_names(task)
    first = {row.method: place for place, row in reversed(list(enumerate(reported)))}
    alike: dict[tuple, list[Group]] = {}
    for group in groups:
        example = group.example
        alike.setdefault((
            first.get(example["method"], len(reported)), example["method"],
            -1 if example["epochs"] is None else example["epochs"], _setting(group)), []).append(group)
    ordered = []
    for key in sorted(alike):
        named = zip(distinctions(alike[key]), alike[key], strict=True)
        ordered += sorted(named, key=lambda pair: pair[0])
    ranks, tests = _ranks(columns, ordered)
    several_data = len({data_hash(group.example) for group in groups}) > 1
    made: list[Row] = []
    remarks = []
    for number, (distinction, group) in enumerate(ordered):
        demo = group.block[0] == DEMO
        method, epochs = group.example["method"], group.example["epochs"]
        source = f"{'demo' if demo else 'measured'}, {group.count()}; " + _setting(group)
        source += f", {distinction}" if distinction else ""
        if several_data and ANNOTATIONS not in distinction:
            source += f", {ANNOTATIONS} {data_hash(group.example)}"
        doubts = [] if demo else _doubts(task, group, groups, reported, expectations)
        doubts += [CODE_UNKNOWN] if not demo and any(trial.code is None for trial in group.trials.values()) else []
        remarks += [f"{method} {epochs_text(epochs)}, {source}: {text}" for text in doubts]
        source += f" {LOOK_AGAIN}" if doubts else ""
        source += f" {STALE}" if _is_stale(group, code) else ""
        cells = {column: _mean_cell(group.cell(column), len(group.trials), ranks[number][column])
                 for column in columns}
        made.append(Row(MEASURED, f"{'DEMO ' if demo else ''}{method}", epochs, cells, source, group))
    rows = []
    for row in made:
        rows.append(row)
        rows += [_difference_row(row, paper) for paper in papers
                 if (paper.method, paper.epochs) == (row.method, row.epochs)]
    return Block("", "", rows, remarks, tests)


def _ranks(columns: tuple[str, ...], ordered: list[tuple[str, Group]]) -> tuple[list[dict[str, str]], list[str]]:
    """For each group (with what distinguishes it) the place of each cell among the groups of the same setting and data,
    and what the tests said."""
    groups = [group for _, group in ordered]
    ranks = [dict.fromkeys(columns, "") for _ in groups]
    tests = []
    settings: dict[tuple[str, str], list[int]] = {}
    for number, group in enumerate(groups):
        if group.block[0] != DEMO:
            settings.setdefault((_setting(group), data_hash(group.example)), []).append(number)
    for (setting, data), members in sorted(settings.items()):
        if len({hashed for _, hashed in settings}) > 1:
            setting += f", {ANNOTATIONS} {data}"
        if len(members) < 2:
            continue
        plain = [row_name(groups[number].example["method"], groups[number].example["epochs"]) for number in members]
        names = [f"{name} ({ordered[number][0]})" if plain.count(name) > 1 else name
                 for name, number in zip(plain, members, strict=True)]
        samples = {column: [Sample(groups[number].independent(column), groups[number].pretrained_here)
                            for number in members] for column in columns}
        found, sentence = compare(samples, names)
        for column in columns:
            for number, place in zip(members, found[column], strict=True):
                ranks[number][column] = place
        if sentence:
            tests.append(f"{setting}: {sentence}")
    return ranks, tests


def under_same_setting(group: Group, others: list[Group]) -> list[Group]:
    """The others of the same setting, data and architecture as `group`."""
    return [other for other in others if _setting(other) == _setting(group)
            and data_hash(other.example) == data_hash(group.example)
            and other.example["weights"]["architecture"] == group.example["weights"]["architecture"]]


def _doubts(task: Task, group: Group, groups: list[Group], reported: list[ReportedRow], expectations: Expectations
            ) -> list[str]:
    """What the literature and random initialisation under the same setting say against a row."""
    columns, main, method = column_names(task), main_columns(task), group.example["method"]
    values = group.means(columns)
    found = outside(expectations, task.table.name, method, group.example["epochs"], group.example["heads"], values)
    if method.startswith(RANDOM):
        return found
    same = under_same_setting(group, [other for other in groups if other.example["method"] == RANDOM])
    if not same and group.block[0] == PAPER:
        found += [f"{text}, as the paper prints it"
                  for text in below_random(values, printed(reported, RANDOM, None), main)]
    return found + [text for other in same for text in below_random(values, other.means(columns), main)]


def _is_stale(group: Group, code: str | None) -> bool:
    return code is not None and any(trial.code not in (None, code) for trial in group.trials.values())


def _setting(group: Group) -> str:
    return ", ".join([f"{group.example['heads']} heads", *remarks(group.example), *group.departures])


def _imported_row(row: Imported, task: Task) -> Row:
    cells = {}
    for column in task.columns:
        value = row.metrics.get(column.metric)
        cells[column.name] = Cell(MISSING) if value is None else Cell(f"{value:.1f}", mean=value)
    return Row(IMPORTED, row.method, row.epochs, cells, row.source)


def _mean_cell(cell: tuple[float, float | None, int] | None, n: int, place: str) -> Cell:
    if cell is None:
        return Cell(MISSING)
    mean, deviation, defined = cell
    text = f"{mean:.1f}" if deviation is None else f"{mean:.1f} ± {deviation:.1f}"
    return Cell(text if defined == n else f"{text} (n={defined})", place, mean, deviation, defined)


def _difference_row(row: Row, other: Row) -> Row:
    cells = {}
    for column in row.cells:
        first, second = row.cells[column].mean, other.cells[column].mean
        if first is None or second is None:
            cells[column] = Cell(MISSING)
            continue
        text = f"{first - second:+.1f}"
        cells[column] = Cell("0.0" if text in ("+0.0", "-0.0") else text, mean=first - second)
    return Row(DIFFERENCE, f"{row.method}: measured - paper", row.epochs, cells, "difference", parts=(row, other))
