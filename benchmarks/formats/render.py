"""A table as markdown, HTML and CSV. pandas and tabulate format; here is what they are given.

Printed metrics are in italics and measured ones upright; the best of a column is bold, the second
underlined, as is a best of measured rows that no test proves.
"""

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.tables.paired import Difference
from benchmarks.tables.ranking import BEST, LEADING, SECOND
from benchmarks.tables.shown_text import epochs_text
from benchmarks.tables.table_model import LOOK_AGAIN, PRINTED, Block, Row, TableModel

if TYPE_CHECKING:
    import pandas as pd

MEASURED_HERE = "measured here"
DIFFERENCE_COLUMNS = ["minus", "difference", "difference_low", "difference_high", "difference_n", "difference_pairs",
                      "p", "p_holm", "holm_family", "difference_note"]


@dataclass(frozen=True)
class Look:
    """How a format escapes text and marks it: italic, bold or underlined."""

    escape: Callable[[str], str]
    italic: str
    bold: str
    underline: str


def escape_markdown(text: str) -> str:
    """Text that markdown shows as it is: names come from users."""
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word it is no markup
    return text.replace("&", "&amp;").replace("<", "&lt;")


MARKDOWN = Look(escape_markdown, "*{}*", "**{}**", "<u>{}</u>")
HTML = Look(html.escape, "<i>{}</i>", "<b>{}</b>", "<u>{}</u>")


def markdown(table: TableModel) -> str:
    """The table with its notes as markdown."""
    parts = [f"## {escape_markdown(table.title)}"]
    for block in table.blocks:
        if block.heading:
            parts.append(f"### {escape_markdown(block.heading)}")
        if block.note:
            parts.append(block.note)
        parts.append(_frame(table, block, MARKDOWN).to_markdown(
            index=False, tablefmt="pipe", disable_numparse=True, colalign=_alignment(table, block)))
        if block.remarks:
            parts.append("\n".join(f"- {LOOK_AGAIN} {escape_markdown(remark)}" for remark in block.remarks))
        for sentence in block.tests + notes_of(table, block):
            parts.append(escape_markdown(sentence))
    return "\n\n".join(parts) + "\n"


def html_text(table: TableModel, provenance: Callable[[Row], str] | None = None) -> str:
    """The table as a piece of HTML: classes `printed`, `measured`, `difference` on rows, no style
    of its own.

    `provenance(row)` is what opens behind a measured row's source.
    """
    import pandas as pd

    parts = [f"<section id=\"{html.escape(table.name)}\">", f"<h2>{html.escape(table.title)}</h2>"]
    for block in table.blocks:
        if block.heading:
            parts.append(f"<h3>{html.escape(block.heading)}</h3>")
        if block.note:
            parts.append(f"<p>{html.escape(block.note)}</p>")
        rows = with_divider(block)
        frame = _frame(table, block, HTML)
        for number, row in enumerate(rows):
            if provenance is not None and row is not None and row.group is not None:
                frame.loc[number, "Source"] = (f"<details><summary>{frame['Source'][number]}</summary>"
                                               f"<pre>{html.escape(provenance(row))}</pre></details>")
        with pd.option_context("display.max_colwidth", None):  # the default cuts texts at 50 letters
            text = frame.to_html(index=False, escape=False, border=0, justify="left")
        head, titles, *lines = re.split(r"<tr(?: style=\"[^\"]*\")?>", text)
        parts.append(f"{head}<tr class=\"head\">{titles}")
        for row, line in zip(rows, lines, strict=True):
            kind = "divider" if row is None else row.kind
            parts[-1] += f"<tr class=\"{kind}\">{line}"
        if block.remarks:
            items = "".join(f"<li>{LOOK_AGAIN} {html.escape(remark)}</li>" for remark in block.remarks)
            parts.append(f"<ul class=\"doubts\">{items}</ul>")
        for sentence in block.tests + notes_of(table, block):
            parts.append(f"<p>{html.escape(sentence)}</p>")
    return "\n".join([*parts, "</section>"]) + "\n"


def notes_of(table: TableModel, block: Block) -> list[str]:
    """The notes of the whole table: they stand under its first block."""
    return table.notes if block is table.blocks[0] else []


def csv_frame(tables: list[TableModel]) -> "pd.DataFrame":
    """Every value of every table, one a line, unrounded, with what it was made of."""
    import pandas as pd

    columns = ["table", "block", "kind", "method", "epochs", "metric", "value", "deviation", "n", "source", "files",
               "pretrainings", *DIFFERENCE_COLUMNS]
    lines = []
    for table in tables:
        for block in table.blocks:
            for row in block.rows:
                for name, cell in row.cells.items():
                    lines.append([table.name, block.heading, row.kind, row.method, row.epochs, name, cell.mean,
                                  cell.deviation, cell.n, row.source, *_made_of(row, name),
                                  *_difference_fields(row.differences.get(name))])
    for line in lines:
        for place in (3, 9):  # method and source: names come from users, and a spreadsheet computes what begins so
            if line[place].startswith(("=", "+", "-", "@", "\t", "\r")):
                line[place] = f"'{line[place]}"
    whole = dict.fromkeys(("epochs", "n", "pretrainings", "difference_n", "difference_pairs"), "Int64")
    return pd.DataFrame(lines, columns=columns).astype(whole)


def _made_of(row: Row, column: str) -> tuple[str, int | None]:
    """(files of a row's trials, number of pretrainings with a value of the column)."""
    if row.group is None:
        return "", None
    files = ";".join(sorted(trial.file for trial in row.group.trials.values()))
    return files, len(row.group.by_pretraining(column)) if row.group.pretrained_here else None


def _difference_fields(difference: Difference | None) -> list[object]:
    """The values of DIFFERENCE_COLUMNS."""
    if difference is None:
        return [None] * len(DIFFERENCE_COLUMNS)
    low, high = difference.interval or (None, None)
    return [difference.against, difference.mean, low, high, len(difference.values), len(difference.pairs),
            difference.p, difference.p_holm, difference.family, difference.doubt]


def _frame(table: TableModel, block: Block, look: Look) -> "pd.DataFrame":
    import pandas as pd

    titles = ["Method", "Epochs", *_titles(table, block), "Source"]
    rows = []
    for row in with_divider(block):
        if row is None:
            rows.append([look.bold.format(MEASURED_HERE), *[""] * (len(titles) - 1)])
            continue
        cells = [shown_cell(row, column, look) for column in table.columns]
        if row.differences:
            cells.append(look.escape(row.differences[table.columns[0]].text()))
        elif is_compared(block):
            cells.append("")
        rows.append([look.escape(row.method), epochs_text(row.epochs), *cells, look.escape(row.source)])
    return pd.DataFrame(rows, columns=[look.escape(title) for title in titles], dtype=object)


def _titles(table: TableModel, block: Block) -> list[str]:
    """What stands over the values: the columns, and the paired difference where the block has one.
    """
    titles = [column.replace("_", " ") for column in table.columns]
    if is_compared(block):
        titles.append(f"{titles[0]} - {table.against} [95 %]")
    return titles


def is_compared(block: Block) -> bool:
    return any(row.differences for row in block.rows)


def with_divider(block: Block) -> list[Row | None]:
    """The rows, with None between printed and measured ones. Printed rows stand first."""
    rows: list[Row | None] = list(block.rows)
    printed = [row.kind for row in block.rows].count(PRINTED)
    if 0 < printed < len(rows):
        rows.insert(printed, None)
    return rows


def shown_cell(row: Row, column: str, look: Look) -> str:
    cell = row.cells[column]
    text = look.escape(cell.text)
    if cell.place in (LEADING, SECOND):
        text = look.underline.format(text)
    elif cell.place == BEST:
        text = look.bold.format(text)
    return look.italic.format(text) if row.kind == PRINTED and cell.mean is not None else text


def _alignment(table: TableModel, block: Block) -> list[str]:
    return ["left", "right", *["right"] * len(_titles(table, block)), "left"]
