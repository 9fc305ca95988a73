"""cluster.yaml: what a lab always says about its cluster, so that nobody has to type it. The command line wins.

Keys are those of the command line with _ for -: partition, account, nodes, gpus_per_node, time, max_jobs, ... `sbatch`
is a mapping and `setup` a list of lines; what the command line says of these two comes after. benchmarks/
cluster.example.yaml shows them all.
"""

import argparse
import difflib
from pathlib import Path
from typing import Any

import yaml

from benchmarks.options import cluster
from benchmarks.options.cluster import ClusterOptions
from pretrain.common import yaml_text
from pretrain.common.errors import UserError

DEFAULT = Path("cluster.yaml")
NOT_ITS_OWN = ("cluster_file",)
LISTS = ("sbatch", "setup")


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None, said: list[str]) -> argparse.Namespace:
    """The arguments, with a cluster file's values where the command line says nothing; that goes into `said`."""
    args = parser.parse_args(arguments)
    path = args.cluster_file or (DEFAULT if DEFAULT.is_file() else None)
    if path is None:
        return args
    values = read(path, parser)
    parser.set_defaults(**values)
    merged = parser.parse_args(arguments)
    if merged.cluster == "slurm":
        said.append(f"settings of the cluster from {path}: {', '.join(values) or 'none'}")
        return merged
    if args.cluster_file is not None:
        raise UserError(f"--cluster-file {path} needs --cluster slurm, on the command line or as a line of it")
    return args


def options_of(args: argparse.Namespace) -> ClusterOptions:
    """The cluster's options; none of them is for a run on this machine."""
    options = cluster.read_options(args)
    if options.cluster == "slurm" and args.gpus is not None:
        raise UserError(f"--gpus {args.gpus} is for this machine: with --cluster slurm say --gpus-per-node N")
    if options.cluster == "local":
        unused = {name: getattr(options, name) for name in ("gpus_per_node", "tasks_per_node", "cpus_per_task",
                                                            "minutes")} | {"max_jobs": args.max_jobs}
        for name, value in unused.items():
            if value:
                option = "--time" if name == "minutes" else f"--{name.replace('_', '-')}"
                raise UserError(f"{option} needs --cluster slurm, found --cluster local (GPUs of this machine: --gpus)")
    if args.max_jobs is not None and args.max_jobs < 1:
        raise UserError(f"--max-jobs must be at least 1, found {args.max_jobs}")
    if "dependency" in dict(options.sbatch) or "array" in dict(options.sbatch):
        raise UserError("--sbatch dependency and array are what the graph itself sets: leave them out")
    return options


def read(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Defaults for `parser`'s cluster options, from the file at `path`. Raises `UserError`."""
    known = {action.dest: action for group in parser._action_groups if group.title == "cluster"
             for action in group._group_actions if action.dest not in NOT_ITS_OWN}
    try:
        # All values as text: YAML would read 24:00:00 as a number of seconds.
        content = yaml_text.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except FileNotFoundError:
        raise UserError(f"--cluster-file {path}: no such file; benchmarks/cluster.example.yaml is one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if content in (None, ""):
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected lines KEY: VALUE, found {type(content).__name__}")
    values = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name in values:
            raise UserError(f"{path}: {name} is given twice")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise UserError(f"{path}: unknown key {key!r}; the nearest valid key is {near!r}")
        values[name] = _value(path, name, value, known[name])
    return values


def _value(path: Path, name: str, value: Any, action: argparse.Action) -> Any:
    if name == "sbatch":
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise UserError(f"{path}: sbatch: expected NAME: VALUE for each option, found {value!r}")
        return [key if one in ("", "true") else f"{key}={one}" for key, one in value.items()]
    if name == "setup":
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise UserError(f"{path}: setup: expected a list of shell lines, found {value!r}")
        return value
    if not isinstance(value, str):
        raise UserError(f"{path}: {name}: expected one value, found {value!r}")
    if action.choices and value not in action.choices:
        raise UserError(f"{path}: {name}: expected one of {', '.join(action.choices)}, found {value!r}")
    if action.type is int:
        try:
            return int(value)
        except ValueError:
            raise UserError(f"{path}: {name}: expected a whole number, found {value!r}") from None
    return value
