"""A table for a terminal: plain aligned text in its width, without markup; what was measured here comes first."""

import re
import textwrap
from typing import TYPE_CHECKING

from benchmarks.formats.layout import Look, column_names, compared_with, difference_texts, notes_of, shown_cell
from benchmarks.tables.shown_text import row_name
from benchmarks.tables.table_model import LOOK_AGAIN, PRINTED, Block, Row, TableModel
from benchmarks.tables.table_rows import HOW_PRINTED

if TYPE_CHECKING:
    import pandas as pd

PLAIN = Look(str, "{}", "{}", "{}")
SECTIONS = {False: "measured", True: "printed in papers"}


def terminal(table: TableModel, width: int) -> str:
    """The table in lines of at most `width` letters, where one column fits into them."""
    parts = [table.title, "=" * min(len(table.title), width)]
    for block in table.blocks:
        if block.heading:
            parts += ["", *textwrap.wrap(block.heading, width)]
        sources = list(dict.fromkeys(row.source for row in _ordered(block)))
        for printed, title in SECTIONS.items():
            rows = [row for row in block.rows if (row.kind == PRINTED) == printed]
            if rows:
                text = _frame(table, block, rows, sources).to_string(line_width=width)
                parts += ["", f"{title}:", re.sub(r"[ \\]+$", "", text, flags=re.MULTILINE)]
        parts.append("")
        notes = [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
        notes += [block.note, *(f"{LOOK_AGAIN} {remark}" for remark in block.remarks), *block.tests]
        for sentence in notes + [note for note in notes_of(table, block) if note != HOW_PRINTED]:
            parts += textwrap.wrap(sentence, width, subsequent_indent="    ")
    return "\n".join(parts) + "\n"


def _ordered(block: Block) -> list[Row]:
    return sorted(block.rows, key=lambda row: row.kind == PRINTED)


def _frame(table: TableModel, block: Block, rows: list[Row], sources: list[str]) -> "pd.DataFrame":
    import pandas as pd

    columns = {}
    for name, column in zip(column_names(table), table.columns, strict=True):
        columns[name] = [shown_cell(row, column, PLAIN) for row in rows]
    if rows[0].kind != PRINTED:
        for other in compared_with(table, block):
            texts = [difference_texts(table, [other], row)[0] for row in rows]
            columns[f"{column_names(table)[0]} - {other}"] = texts
    names = [f"{row_name(row.method, row.epochs)} [{sources.index(row.source) + 1}]" for row in rows]
    return pd.DataFrame(columns, index=names)
