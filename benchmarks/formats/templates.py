"""The one door to jinja2: pages and pieces of HTML are templates in files, Python gathers their values."""

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDERS = [Path(__file__).parent / "html", Path(__file__).parents[1] / "report" / "html"]


def render(name: str, **values: object) -> str:
    """The template of this name with these values, each of them escaped."""
    return _environment().get_template(name).render(values)


@cache
def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(FOLDERS), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
