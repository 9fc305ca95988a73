"""A table as LaTeX, as papers set it: booktabs' rules, AP with its indices, sources as numbered notes below.

It fits the text width of `article` in one column and in two (there it spans both).
"""

import re

from benchmarks.formats import layout
from benchmarks.formats.latex_text import escape_latex
from benchmarks.tables.table_model import Block, TableModel

LATEX_PREAMBLE = "% needs \\usepackage{booktabs,graphicx}\n"
# Wider than the text only where names are long: then it shrinks.
FITTED = "\\resizebox{{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}}{{!}}{{%\n{}}}"


def latex(table: TableModel) -> str:
    """The table as one LaTeX table a block, with its notes below."""
    parts = [LATEX_PREAMBLE]
    for number, block in enumerate(table.blocks):
        title = f"{table.title}: {block.heading}" if block.heading else table.title
        sources, notes = list(dict.fromkeys(row.source for row in block.rows)), []
        for index, source in enumerate(sources, 1):
            notes.append(f"$^{{{index}}}$ {_text(source)}.")
        for sentence in (block.note, *layout.notes_of(table, block), *block.remarks, *block.tests):
            if sentence:
                notes.append(f"{_text(sentence.removesuffix('.'))}.")
        parts.append("\n".join([
            "\\begin{table*}", "\\centering", "\\footnotesize", "\\setlength{\\tabcolsep}{3pt}",
            f"\\caption{{{_text(title)}.}}", f"\\label{{tab:{table.name.replace('_', '-')}-{number}}}",
            FITTED.format(_tabular(table, block, sources)),
            # Not in the caption: TeX sets that on one line first, which has no room for many sentences.
            f"\\par\\smallskip\n\\parbox{{\\linewidth}}{{\\scriptsize {' '.join(notes)}}}", "\\end{table*}", ""]))
    return "\n".join(parts)


def _tabular(table: TableModel, block: Block, sources: list[str]) -> str:
    from tabulate import tabulate

    titles = ["Method", "Epochs"]
    for column in table.columns:
        titles.append(column_title(column))
    for other in layout.compared_with(table, block):
        title = f"{titles[2]} $-$ {_text(other)}"
        if other != layout.PAPER:
            title += " [95\\,\\%]"
        titles.append(title)
    lines = []
    for row, (method, epochs, *cells, _) in layout.lines(table, block, LATEX):
        if row:
            method += f"$^{{{sources.index(row.source) + 1}}}$"
        cells = [re.sub(r" \$\\pm\$ ([\d.]+)", r"$_{\\pm \1}$", cell) for cell in cells]
        lines.append([method, epochs.replace("-", "--"), *cells])
    text = tabulate(lines, headers=titles, tablefmt="latex_raw", disable_numparse=True,
                    colalign=["left", *["right"] * (len(titles) - 1)])
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        text = text.replace("\\hline", rule, 1)
    return text


def column_title(column: str) -> str:
    """The title of a column as papers set it: AP50_bb is AP with bb above and 50 below."""
    name, _, above = column.partition("_")
    below = name.removeprefix("AP")
    if name == column == "AP" or not name.startswith("AP"):
        return escape_latex(column.replace("_", " "))
    indices = f"^{{{above}}}" if above else ""
    if below:
        indices += f"_{{{below}}}"
    return f"AP${indices}$"


def _text(text: str) -> str:
    """Text with quotes as a pair and a true minus before numbers."""
    escaped = escape_latex(re.sub(r'"([^"]*)"', "\u201c\\1\u201d", text))
    return re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)


LATEX = layout.Look(_text, "\\textit{{{}}}", "\\textbf{{{}}}", "\\underline{{{}}}", "\\textit{{{}}}")
