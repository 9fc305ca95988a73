"""A table for a terminal: plain aligned text in its width, without markup; what was measured here comes first."""

import re
import textwrap
from dataclasses import replace

from benchmarks.formats.layout import INTERVAL, Look, lines, notes_of, titles
from benchmarks.tables.table_model import PRINTED, TableModel
from benchmarks.tables.table_rows import HOW_PRINTED

PLAIN = Look(str, "{}", "{}", "{}", "{}")


def terminal(table: TableModel, width: int) -> str:
    """The table in lines of at most `width` letters, where one column fits into them."""
    import pandas as pd

    parts = [table.title, "=" * min(len(table.title), width)]
    for block in table.blocks:
        if block.heading:
            parts += ["", *textwrap.wrap(block.heading, width)]
        ordered = replace(block, rows=sorted(block.rows, key=lambda row: row.kind == PRINTED))
        measured, metrics = sum(row.kind != PRINTED for row in block.rows), 2 + len(table.columns)
        names = [title.removesuffix(f" {INTERVAL}") for title in titles(table, block)]
        frame = pd.DataFrame([cells for row, cells in lines(table, ordered, PLAIN) if row], columns=names)
        numbers, sources = pd.factorize(frame["Source"])
        frame.index = [f"{row.name} [{number + 1}]" for row, number in zip(ordered.rows, numbers, strict=True)]
        sections = {"measured": frame.iloc[:measured, 2:-1], "printed in papers": frame.iloc[measured:, 2:metrics]}
        for title, section in sections.items():
            if len(section):
                text = section.to_string(line_width=width)
                parts += ["", f"{title}:", re.sub(r"[ \\]+$", "", text, flags=re.MULTILINE)]
        notes = []
        for number, source in enumerate(sources, 1):
            notes.append(f"[{number}] {source}")
        parts.append("")
        for sentence in (*notes, block.note, *block.remarks, *block.tests, *notes_of(table, block)):
            if sentence != HOW_PRINTED:
                parts += textwrap.wrap(sentence, width, subsequent_indent="    ")
    return "\n".join(parts) + "\n"
