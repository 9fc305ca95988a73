"""A table as a piece of HTML, by the template html/table.html; the one door to jinja2, whose values Python gathers."""

from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from benchmarks.formats import layout
from benchmarks.tables.table_model import TableModel

FOLDERS = [Path(__file__).parent / "html", Path(__file__).parents[1] / "report" / "html"]
TEMPLATES = Environment(loader=FileSystemLoader(FOLDERS), autoescape=True, undefined=StrictUndefined,
                        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
HTML = layout.Look(lambda text: str(escape(text)), "<i>{}</i>", "<b>{}</b>", "<u>{}</u>", "<b>{}</b>")


def html_text(table: TableModel, more: Mapping[int, Markup] | None = None) -> str:
    """The table as a section: classes `printed`, `measured`, `imported` on rows, no style of its
    own.

    `more`: what opens behind a row's source, by the row's `id()`.
    """
    return render("table.html", table=table, layout=layout, look=HTML, more=more or {}, id=id)


def render(name: str, **values: object) -> str:
    """The template of this name with these values, each of them escaped."""
    return TEMPLATES.get_template(name).render(values)
