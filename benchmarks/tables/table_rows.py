"""The table of one task: its printed, measured and imported rows, their differences, and what is said of them."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.records.comparisons import sentence
from benchmarks.records.expected_values import RANDOM, below_random, outside
from benchmarks.records.paper_tables import column_names, main_columns
from benchmarks.records.reported import ReportedRow, printed
from benchmarks.tables.ranking import PRETRAININGS_FOR_BOLD, Sample, compare, places
from benchmarks.tables.shown_text import number_text
from benchmarks.tables.table_model import (
    IMPORTED,
    LOOK_AGAIN,
    MEASURED,
    PRINTED,
    Block,
    Cell,
    Row,
    TableModel,
)
from benchmarks.tables.trial_groups import (
    ANNOTATIONS,
    DEMO,
    OTHER_PROTOCOL,
    OWN_DATA,
    PAPER,
    Group,
    dataset_name,
    distinctions,
)
from transfer.records.code_hash import finetuning_sha256
from transfer.tasks import Task

STALE = "(stale)"
IMPORTED_NOTE = "Made elsewhere and imported: nothing here vouches for how; each row names its file."
BLOCK_NOTES = {
    PAPER: "",
    OTHER_PROTOCOL: "Measured here on the paper's data, but not as the paper did it: not comparable with its rows.",
    OWN_DATA: "Measured here on other data than the paper's: not comparable with its rows.",
    DEMO: "A few iterations, as a rule on small generated images: these rows show that the pipeline runs "
          "and say nothing about quality.",
}
HOW_MEASURED = "Measured rows: mean ± sample standard deviation over n trials; n=1 is a single run, no error bar."
KNOWN_NOISE = " Single runs on COCO are known to vary by about 0.3 AP."
HOW_PRINTED = "Metrics in italics are printed in papers; upright ones were measured here."
MINUS_PAPER = (" \"{} - paper\" is a difference of unrounded means: to the paper's row of the same method and epochs; "
               "tables.csv has it for every column.")
PRETRAINED_HERE = (" Where a method was pretrained here, mean and deviation are over the means of its pretrainings, "
                   "for fine-tunings of one pretraining are not independent; with one pretraining the deviation is "
                   f"over its fine-tunings alone. Bold needs {PRETRAININGS_FOR_BOLD} pretrainings there.")
FROM_ELSEWHERE = " A checkpoint from elsewhere is one pretraining: its deviation is over its fine-tunings alone."
CODE_UNKNOWN = "code unknown: no hash of the fine-tuning's code was recorded, so nobody can tell whether it is stale"
STALE_MEANS = f"{STALE}: the fine-tuning's code or configs have changed since; run the stage again to be sure."


@dataclass(frozen=True)
class Known:
    """All that there is of one task. `comparisons` (of any task) stand under the block that has
    both of their results."""

    task: Task
    reported: list[ReportedRow]
    groups: list[Group]
    expected: list[dict]
    imported: list[dict]
    comparisons: list[dict]


def build_table(known: Known) -> TableModel:
    """The table of a task: its printed, measured and imported rows."""
    task, groups, blocks = known.task, known.groups, []
    by_block: dict[tuple, list[Group]] = defaultdict(list, {(PAPER, ""): []})
    names, kinds = set(), set()
    for group in groups:
        by_block[group.block].append(group)
        kinds.add(group.block[0])
        names.add(dataset_name(group.example) or "own data")
    own_data = not known.reported and not known.imported and kinds <= {OWN_DATA}
    for (kind, heading), members in sorted(by_block.items(), key=lambda item: item[0]):
        block = Block(heading, BLOCK_NOTES[kind])
        if own_data:  # the notes compare with printed rows
            block.note = ""
        if kind == PAPER:
            _add_printed(block, known)
        _add_measured(block, known, members)
        blocks.append(block)
    imported = Block("Imported", IMPORTED_NOTE)
    for row in known.imported:
        cells = {column.name: _cell(row["metrics"].get(column.metric)) for column in task.columns}
        source = f"imported from {row['source']['file']}, sha256 {row['source']['sha256'][:8]}"
        imported.rows.append(Row(IMPORTED, row["method"], row["epochs"], cells, source))
    blocks = [block for block in (*blocks, imported) if block.rows]
    title = task.table.title
    # What the task is, on the datasets that were measured instead of the published one.
    if own_data:
        title = f"{title.partition(' on ')[0]} on {', '.join(sorted(names))}"
    table = TableModel(task.table.name, title, column_names(task), task.table.in_poster, blocks, [])
    _add_notes(table, known, own_data)
    return table


def _add_notes(table: TableModel, known: Known, own_data: bool) -> None:
    """What stands under the whole table: notes that hold. One that begins with a blank goes on from
    the one before."""
    rows, groups = table.rows(), known.groups
    holds = {
        known.task.table.note.lstrip(): not own_data,
        HOW_MEASURED: groups,
        KNOWN_NOISE: groups and "COCO" in known.task.table.data and not own_data,
        PRETRAINED_HERE: any(group.pretrained_here for group in groups),
        FROM_ELSEWHERE: any(group.from_elsewhere for group in groups),
        MINUS_PAPER.format(table.columns[0].replace("_", " ")): any(row.paper for row in rows),
        STALE_MEANS: any(row.kind == MEASURED and STALE in row.source for row in rows),
        HOW_PRINTED: known.reported,
    }
    for text, is_so in holds.items():
        if is_so and text.startswith(" "):
            table.notes[-1] += text
        elif is_so and text:
            table.notes.append(text)


def _add_printed(block: Block, known: Known) -> None:
    """The papers' rows, and what is doubtful in them."""
    columns, random = column_names(known.task), printed(known.reported, RANDOM, None)
    for row in known.reported:
        name = f"{row.method} {number_text(row.epochs, 'd')} as printed"
        mark = _mark(block, name, below_random(row.values, random, main_columns(known.task)))
        cells = {column: _cell(row.values.get(column)) for column in columns}
        block.rows.append(Row(PRINTED, row.method, row.epochs, cells, f"paper ({row.source}){mark}"))
    for column in columns:
        _set_places(block.rows, column, places([row.cells[column].mean for row in block.rows]))


def _mark(block: Block, name: str, doubts: list[str]) -> str:
    """The mark of a doubtful row; its doubts become remarks under the block."""
    for doubt in doubts:
        block.remarks.append(f"{LOOK_AGAIN} {name}: {doubt}")
    return f" {LOOK_AGAIN}" if doubts else ""


def _add_measured(block: Block, known: Known, groups: list[Group]) -> None:
    """The measured rows of a block, each with its differences to the printed ones, and what the
    tests say of them."""
    papers = {(row.method, row.epochs): row for row in block.rows}
    several_data = len({group.data for group in groups}) > 1
    starts = [group for group in groups if group.example["method"] == RANDOM]
    current = (None, finetuning_sha256(known.task.name))  # rows of another code are stale
    for distinction, group in _in_order(known.reported, groups):
        method, epochs = group.example["method"], group.example["epochs"]
        made, doubts = "demo", []
        if group.block[0] == DEMO:
            method = f"DEMO {method}"
        else:
            made, doubts = "measured", _doubts(known, group, starts)
        source = f"{made}, {group.count()}; {group.setting}"
        if distinction:
            source += f", {distinction}"
        if several_data and ANNOTATIONS not in distinction:
            source += f", {ANNOTATIONS} {group.data}"
        source += _mark(block, f"{method} {number_text(epochs, 'd')}, {source}", doubts)
        if any(trial.code not in current for trial in group.trials):
            source += f" {STALE}"
        cells = {}
        for column in column_names(known.task):
            mean, deviation, defined = group.cell(column)
            cells[column] = _cell(mean, deviation, defined)
            if 0 < defined < len(group.trials):
                cells[column].text += f" (n={defined})"
        paper = papers.get((method, epochs))
        block.rows.append(Row(MEASURED, method, epochs, cells, source, group, paper, distinction=distinction))
    _rank(block, several_data)
    for one in known.comparisons:
        if one["task"] == known.task.name and stands_in(one, groups):
            block.tests.append(sentence(one))


def stands_in(comparison: dict, groups: Iterable[Group]) -> bool:
    """Whether both results of a comparison are among these: under a block that has both it stands,
    and nowhere else."""
    found = set()
    for group in groups:
        found |= {trial.predictions for trial in group.trials}
    return found.issuperset(comparison["predictions_sha256"])


def _in_order(reported: list[ReportedRow], groups: list[Group]) -> list[tuple[str, Group]]:
    """(what distinguishes it from others of its name, group): in the paper's order, the others
    after them."""
    methods = list(dict.fromkeys(row.method for row in reported))
    alike: dict[tuple, list[Group]] = defaultdict(list)
    for group in groups:
        method, epochs, place = group.example["method"], group.example["epochs"], len(methods)
        if method in methods:
            place = methods.index(method)
        alike[place, method, epochs is not None, epochs, group.setting].append(group)
    ordered = []
    for _, members in sorted(alike.items(), key=lambda item: item[0]):
        ordered += sorted(zip(distinctions(members), members, strict=True), key=lambda pair: pair[0])
    return ordered


def _rank(block: Block, several_data: bool) -> None:
    """Give the cells their places among the rows of the same setting and data, with what the tests
    say."""
    alike: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in block.comparable():
        alike[row.group.setting, row.group.data].append(row)
    for (setting, data), rows in sorted(alike.items(), key=lambda item: item[0]):
        if len(rows) < 2:
            continue
        counts, names = Counter(row.name for row in rows), []
        samples: dict[str, list[Sample]] = defaultdict(list)
        for row in rows:
            names.append(row.name)
            if counts[row.name] > 1:
                names[-1] += f" ({row.distinction})"
            for column in row.cells:
                samples[column].append(Sample(row.group.independent(column), row.group.pretrained_here))
        found, sentence = compare(samples, names)
        for column, column_places in found.items():
            _set_places(rows, column, column_places)
        if several_data:
            setting += f", {ANNOTATIONS} {data}"
        if sentence:
            block.tests.append(f"{setting}: {sentence}")


def _set_places(rows: list[Row], column: str, column_places: list[str]) -> None:
    for row, place in zip(rows, column_places, strict=True):
        row.cells[column].place = place


def _doubts(known: Known, group: Group, starts: list[Group]) -> list[str]:
    """What the literature and random initialisation (`starts`) under the same setting say against a
    row."""
    task, main, method = known.task, main_columns(known.task), group.example["method"]
    values, found = _means(group, task), []
    if group.block[0] == PAPER:
        row = (task.table.name, method, group.example["epochs"], group.example["heads"])
        found = outside(known.expected, row, values)
    if not method.startswith(RANDOM):
        starts = [start for start in starts if start.is_like(group)]
        for start in starts:
            found += below_random(values, _means(start, task), main)
        if not starts and group.block[0] == PAPER:
            for text in below_random(values, printed(known.reported, RANDOM, None), main):
                found.append(f"{text}, as the paper prints it")
    if any(trial.code is None for trial in group.trials):
        found.append(CODE_UNKNOWN)
    return found


def _means(group: Group, task: Task) -> dict[str, float | None]:
    return {column: group.cell(column)[0] for column in column_names(task)}


def _cell(mean: float | None, deviation: float | None = None, n: int | None = None) -> Cell:
    text = number_text(mean)
    if deviation is not None:
        text += f" ± {deviation:.1f}"
    return Cell(text, mean, deviation, n or None)
