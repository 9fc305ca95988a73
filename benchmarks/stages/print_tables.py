"""The end of a run: its tables, written and printed."""

from pathlib import Path

from benchmarks.formats.all_tables import read_tables, write_tables
from benchmarks.options.run_options import Options
from pretrain import PRINTED


def print_tables(options: Options) -> Path:
    """Write the tables of `options.results` beside the papers' figures, print them, return the
    folder.

    The demo's own tables go beside the main ones, which it never enters.
    """
    options.results.mkdir(parents=True, exist_ok=True)
    folder = options.results / "tables"
    if options.demo:
        folder /= "demo"
    found = read_tables(options.results, PRINTED / "reported", options.include_demo)
    write_tables(found.tables, folder, found.probes)
    print()
    found.show()
    return folder
