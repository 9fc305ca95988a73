"""A table as markdown, by tabulate."""

import re

from benchmarks.formats.layout import Look, lines, notes_of, titles
from benchmarks.tables.table_model import TableModel


def escape_markdown(text: str) -> str:
    """Text that markdown shows as it is: names come from users."""
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word it is no markup
    return text.replace("&", "&amp;").replace("<", "&lt;")


MARKDOWN = Look(escape_markdown, "*{}*", "**{}**", "<u>{}</u>", "**{}**")


def markdown(table: TableModel) -> str:
    """The table with its notes as markdown."""
    from tabulate import tabulate

    parts = [f"## {escape_markdown(table.title)}"]
    for block in table.blocks:
        if block.heading:
            parts.append(f"### {escape_markdown(block.heading)}")
        if block.note:
            parts.append(block.note)
        names = [escape_markdown(title) for title in titles(table, block)]
        cells = [line for _, line in lines(table, block, MARKDOWN)]
        parts.append(tabulate(cells, headers=names, tablefmt="pipe", disable_numparse=True,
                              colalign=["left", *["right"] * (len(names) - 2), "left"]))
        if block.remarks:
            parts.append("\n".join(f"- {escape_markdown(remark)}" for remark in block.remarks))
        for sentence in block.tests + notes_of(table, block):
            parts.append(escape_markdown(sentence))
    return "\n\n".join(parts) + "\n"
