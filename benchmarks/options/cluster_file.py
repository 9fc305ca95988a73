"""cluster.yaml: what a lab always says about its cluster, so that nobody has to type it. The command line wins.

Keys are those of the command line with _ for -: partition, account, nodes, gpus_per_node, time, max_jobs, ... `sbatch`
is a mapping and `setup` a list of lines; what the command line says of these two comes after. benchmarks/
cluster.example.yaml shows them all.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.options.checks import all_text, nearest, read_option_file
from benchmarks.options.cluster import add_options
from pretrain.common.errors import refuse

DEFAULT = Path("cluster.yaml")


def parse(parser: argparse.ArgumentParser, arguments: list[str], said: list[str]) -> argparse.Namespace:
    """The arguments, with a cluster file's values where the command line says nothing; that goes into `said`."""
    args = parser.parse_args(arguments)
    path = args.cluster_file or DEFAULT
    if args.cluster_file is None and not DEFAULT.is_file():
        return args
    values = read(path)
    parser.set_defaults(**values)
    merged = parser.parse_args(arguments)
    if merged.cluster == "slurm":
        said.append(f"settings of the cluster from {path}: {', '.join(values) or 'none'}")
        return merged
    refuse((args.cluster_file is not None,
            f"--cluster-file {path} needs --cluster slurm, on the command line or as a line of it"))
    return args


def read(path: Path) -> dict[str, Any]:
    """Defaults for the cluster's options, from the file at `path`. Raises `UserError`."""
    refuse((not path.exists(),
            f"--cluster-file {path}: no such file; benchmarks/cluster.example.yaml is an example"))
    alone = argparse.ArgumentParser(add_help=False)
    add_options(alone)
    known = {action.dest: action for action in alone._actions}
    del known["cluster_file"]
    values: dict[str, Any] = {}
    for key, value in read_option_file(path, "lines KEY: VALUE").items():
        name = key.replace("-", "_")
        problem = _problem(name, value, known)
        refuse((name in values, f"{path}: {name} is given twice"), (problem, f"{path}: {problem}"))
        values[name] = value  # argparse makes numbers of it
    if "sbatch" in values:  # as the option takes it
        given = []
        for option, text in values["sbatch"].items():
            if text not in ("", "true"):
                option += f"={text}"
            given.append(option)
        values["sbatch"] = given
    return values


def _problem(name: str, value: Any, known: dict[str, argparse.Action]) -> str:
    """What is wrong with one line of the file; "" when nothing is."""
    if name not in known:
        return f"unknown key {name!r}; the nearest valid key is {nearest(name, known)!r}"
    action = known[name]
    expected, fits = "one value", isinstance(value, str)
    if name == "sbatch":
        expected = "NAME: VALUE for each option"
        fits = isinstance(value, dict) and all_text(value.values())
    elif name == "setup":
        expected = "a list of shell lines"
        fits = isinstance(value, list) and all_text(value)
    elif fits and action.choices:
        expected, fits = f"one of {', '.join(action.choices)}", value in action.choices
    elif fits and action.type is int:
        expected, fits = "a whole number", value.isdecimal()
    if fits:
        return ""
    return f"{name}: expected {expected}, found {value!r}"
