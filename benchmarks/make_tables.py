"""Reported and measured results -> markdown, LaTeX, HTML and CSV. Needs pandas and tabulate, HTML jinja2 too.

    python benchmarks/make_tables.py [--results DIR] [--reported DIR] [--include-demo] [--strict] [--why CELL]
        [--against ROW] [--contrast "ROW - OTHER ROW"] [--figure FILE]

Reads results/reported/*.csv (what papers print), results/runs/*.json (what was measured here) and
results/probes/*.json (frozen backbones), writes results/tables/ and prints the tables. The same
input gives the same bytes. Works from any folder. --figure needs matplotlib too.
"""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a file: the packages are found from the root, not from this folder
    ROOT = Path(__file__).resolve().parent.parent
    sys.path[:] = [str(ROOT)] + [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks"]

from benchmarks.formats.all_tables import main
from pretrain.common.errors import run_cli

if __name__ == "__main__":
    run_cli(main)
