"""A table as a piece of HTML, by the template html/table.html."""

from collections.abc import Mapping

from markupsafe import Markup, escape

from benchmarks.formats import layout
from benchmarks.formats.templates import render
from benchmarks.tables.table_model import Row, TableModel

HTML = layout.Look(lambda text: str(escape(text)), "<i>{}</i>", "<b>{}</b>", "<u>{}</u>")


def html_text(table: TableModel, more: Mapping[int, Markup] | None = None) -> str:
    """The table as a section: classes `printed`, `measured`, `imported` on rows, no style of its own.

    `more`: what opens behind a row's source, by the row's `id()`.
    """
    def cells(compared: list[str], row: Row) -> list[Markup]:
        return [Markup(cell) for cell in layout.line(table, compared, row, HTML)]

    return render("table.html", table=table, layout=layout, cells=cells, more=more or {}, id=id)
