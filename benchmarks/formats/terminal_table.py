"""A table for a terminal: plain aligned text in its width, without markup; what was measured here comes first."""

import re
import textwrap
from typing import TYPE_CHECKING

from benchmarks.formats.layout import Look, column_names, compared_with, line, notes_of
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
        ordered = sorted(block.rows, key=lambda row: row.kind == PRINTED)
        sources = list(dict.fromkeys(row.source for row in ordered))
        for printed, title in SECTIONS.items():
            rows = [row for row in ordered if (row.kind == PRINTED) == printed]
            if rows:
                text = _frame(table, block, rows, sources).to_string(line_width=width)
                parts += ["", f"{title}:", re.sub(r"[ \\]+$", "", text, flags=re.MULTILINE)]
        parts.append("")
        notes = [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
        notes += [block.note, *(f"{LOOK_AGAIN} {remark}" for remark in block.remarks), *block.tests]
        for sentence in notes + [note for note in notes_of(table, block) if note != HOW_PRINTED]:
            parts += textwrap.wrap(sentence, width, subsequent_indent="    ")
    return "\n".join(parts) + "\n"


def _frame(table: TableModel, block: Block, rows: list[Row], sources: list[str]) -> "pd.DataFrame":
    import pandas as pd

    columns, compared = column_names(table), []
    if rows[0].kind != PRINTED:
        compared = compared_with(table, block)
    columns += [f"{columns[0]} - {other}" for other in compared]
    names = [f"{row.name} [{sources.index(row.source) + 1}]" for row in rows]
    return pd.DataFrame([line(table, compared, row, PLAIN)[2:-1] for row in rows], names, columns)
