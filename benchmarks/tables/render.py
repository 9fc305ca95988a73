"""A table as markdown, LaTeX (booktabs), HTML and CSV. pandas and tabulate format; here is what they are given.

Printed figures are in italics and measured ones upright; the best of a column is bold, the second underlined, as is a
best of measured rows that no test proves.
"""

import html
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.tables.latex_text import escape_latex
from benchmarks.tables.paired import Difference
from benchmarks.tables.ranking import BEST, LEADING, SECOND
from benchmarks.tables.table_rows import LOOK_AGAIN, PRINTED, Block, Cell, Row, TableModel, epochs_text

if TYPE_CHECKING:
    import pandas as pd

MEASURED_HERE = "measured here"
DIFFERENCE_COLUMNS = ["minus", "difference", "difference_low", "difference_high", "difference_n", "difference_pairs",
                      "p", "p_holm", "holm_family", "difference_note"]
LATEX_PREAMBLE = "% needs \\usepackage{booktabs}\n"
Style = Callable[[str, str], str]  # (text already escaped, one of "italic", "bold", "underline") -> marked text
Escape = Callable[[str], str]


def markdown(table: TableModel) -> str:
    """The table with its notes as markdown."""
    parts = [f"## {escape_markdown(table.title)}"]
    for number, block in enumerate(table.blocks):
        if block.heading:
            parts += [f"### {escape_markdown(block.heading)}"]
        parts += [block.note] if block.note else []
        parts.append(_frame(table, block, escape_markdown, _markdown_style).to_markdown(
            index=False, tablefmt="pipe", disable_numparse=True, colalign=_alignment(table, block)))
        if block.remarks:
            parts.append("\n".join(f"- {LOOK_AGAIN} {escape_markdown(remark)}" for remark in block.remarks))
        parts += [escape_markdown(test) for test in block.tests]
        parts += [escape_markdown(note) for note in table.notes] if number == 0 else []
    return "\n\n".join(parts) + "\n"


def latex(table: TableModel) -> str:
    """The table as one LaTeX table a block, with booktabs' rules; the notes stand below."""
    from tabulate import tabulate

    parts = [LATEX_PREAMBLE]
    for number, block in enumerate(table.blocks):
        frame = _frame(table, block, escape_latex, _latex_style)
        text = tabulate(frame.values.tolist(), headers=list(frame.columns),
                        tablefmt="latex_raw", disable_numparse=True, colalign=_alignment(table, block))
        for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
            text = text.replace("\\hline", rule, 1)
        said = [table.title, block.heading, block.note, *(table.notes if number == 0 else []),
                *(f"{LOOK_AGAIN} {remark}." for remark in block.remarks), *block.tests]
        caption, *notes = [escape_latex(sentence if sentence.endswith(".") else f"{sentence}.")
                           for sentence in said if sentence]
        # Below: TeX sets a caption on one line first, which has no room for many sentences.
        below = f"\\par\\smallskip\n\\parbox{{\\linewidth}}{{{' '.join(notes)}}}\n" if notes else ""
        parts.append(f"\\begin{{table}}\n\\centering\n\\scriptsize\n\\caption{{{caption}}}\n{text}\n{below}"
                     "\\end{table}\n")
    return "\n".join(parts)


def html_text(table: TableModel, provenance: Callable[[Row], str] | None = None) -> str:
    """The table as a piece of HTML: classes `printed`, `measured`, `difference` on rows, no style of its own.

    `provenance(row)` is what opens behind a measured row's source.
    """
    import pandas as pd

    parts = [f"<section id=\"{html.escape(table.name)}\">", f"<h2>{html.escape(table.title)}</h2>"]
    for number, block in enumerate(table.blocks):
        parts += [f"<h3>{html.escape(block.heading)}</h3>"] if block.heading else []
        parts += [f"<p>{html.escape(block.note)}</p>"] if block.note else []
        frame = _frame(table, block, html.escape, _html_style)
        if provenance is not None:
            frame["Source"] = [
                source if row is None or row.group is None else
                f"<details><summary>{source}</summary><pre>{html.escape(provenance(row))}</pre></details>"
                for source, row in zip(frame["Source"], _with_divider(block), strict=True)]
        with pd.option_context("display.max_colwidth", None):  # the default cuts texts at 50 letters
            text = frame.to_html(index=False, escape=False, border=0, justify="left")
        before, *rows = re.split(r"<tr(?: style=\"[^\"]*\")?>", text)
        kinds = ["head", *_kinds(block)]
        rows = [f"<tr class=\"{kind}\">{row}" for kind, row in zip(kinds, rows, strict=True)]
        parts.append(before + "".join(rows))
        if block.remarks:
            items = "".join(f"<li>{LOOK_AGAIN} {html.escape(remark)}</li>" for remark in block.remarks)
            parts.append(f"<ul class=\"doubts\">{items}</ul>")
        parts += [f"<p>{html.escape(test)}</p>" for test in block.tests]
        parts += [f"<p>{html.escape(note)}</p>" for note in (table.notes if number == 0 else [])]
    return "\n".join([*parts, "</section>"]) + "\n"


def csv_frame(tables: list[TableModel]) -> "pd.DataFrame":
    """Every number of every table, one a line, unrounded, with what it was made of."""
    import pandas as pd

    columns = ["table", "block", "kind", "method", "epochs", "metric", "value", "deviation", "n", "source", "files",
               "pretrainings", *DIFFERENCE_COLUMNS]
    lines = []
    for table in tables:
        for block in table.blocks:
            for row in block.rows:
                group = row.group
                files = ";".join(sorted(trial.file for trial in group.trials.values())) if group else ""
                pretrained = group is not None and group.pretrained_here
                for name, cell in row.cells.items():
                    pretrainings = len(group.by_pretraining(name)) if pretrained else None
                    lines.append([table.name, block.heading, row.kind, row.method, row.epochs, name, cell.mean,
                                  cell.deviation, cell.n, row.source, files, pretrainings,
                                  *_difference_fields(row.differences.get(name))])
    whole = dict.fromkeys(("epochs", "n", "pretrainings", "difference_n", "difference_pairs"), "Int64")
    return pd.DataFrame(lines, columns=columns).astype(whole)


def _difference_fields(difference: Difference | None) -> list[object]:
    """The values of DIFFERENCE_COLUMNS."""
    if difference is None:
        return [None] * len(DIFFERENCE_COLUMNS)
    low, high = difference.interval or (None, None)
    return [difference.against, difference.mean, low, high, len(difference.values), len(difference.pairs),
            difference.p, difference.p_holm, difference.family, difference.doubt]


def escape_markdown(text: str) -> str:
    """Text that markdown shows as it is: names come from users."""
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word it is no markup
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _frame(table: TableModel, block: Block, escape: Escape, style: Style) -> "pd.DataFrame":
    import pandas as pd

    compared = [_difference_title(table)] if _is_compared(block) else []
    titles = ["Method", "Epochs", *[column.replace("_", " ") for column in table.columns], *compared, "Source"]
    rows = []
    for row in _with_divider(block):
        if row is None:
            rows.append([style(MEASURED_HERE, "bold"), *[""] * (len(titles) - 1)])
            continue
        cells = [_shown(row, row.cells[column], escape, style) for column in table.columns]
        if compared:
            cells.append(escape(row.differences[table.columns[0]].text()) if row.differences else "")
        rows.append([escape(row.method), epochs_text(row.epochs), *cells, escape(row.source)])
    return pd.DataFrame(rows, columns=list(map(escape, titles)), dtype=object)


def _difference_title(table: TableModel) -> str:
    return f"{table.columns[0].replace('_', ' ')} - {table.against} [95 %]"


def _is_compared(block: Block) -> bool:
    return any(row.differences for row in block.rows)


def _with_divider(block: Block) -> list[Row | None]:
    """The rows, with None between printed and measured ones."""
    printed = [row for row in block.rows if row.kind == PRINTED]
    others = [row for row in block.rows if row.kind != PRINTED]
    return [*printed, *([None] if printed and others else []), *others]


def _kinds(block: Block) -> list[str]:
    return ["divider" if row is None else row.kind for row in _with_divider(block)]


def _shown(row: Row, cell: Cell, escape: Escape, style: Style) -> str:
    text = escape(cell.text)
    if cell.mean is None:
        return text
    if cell.place in (LEADING, SECOND):
        text = style(text, "underline")
    elif cell.place == BEST:
        text = style(text, "bold")
    return style(text, "italic") if row.kind == PRINTED else text


def _alignment(table: TableModel, block: Block) -> list[str]:
    return ["left", *["right"] * (len(table.columns) + 1 + _is_compared(block)), "left"]


def _markdown_style(text: str, look: str) -> str:
    return {"italic": f"*{text}*", "bold": f"**{text}**", "underline": f"<u>{text}</u>"}[look]


def _latex_style(text: str, look: str) -> str:
    return {"italic": f"\\textit{{{text}}}", "bold": f"\\textbf{{{text}}}",
            "underline": f"\\underline{{{text}}}"}[look]


def _html_style(text: str, look: str) -> str:
    return {"italic": f"<i>{text}</i>", "bold": f"<b>{text}</b>", "underline": f"<u>{text}</u>"}[look]
