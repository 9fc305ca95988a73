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

from pretrain.errors import UserError

DEFAULT = Path("cluster.yaml")
NOT_ITS_OWN = ("cluster_file",)
LISTS = ("sbatch", "setup")


def read(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Defaults for `parser`'s cluster options, from the file at `path`. Raises `UserError`."""
    known = {action.dest: action for group in parser._action_groups if group.title == "cluster"
             for action in group._group_actions if action.dest not in NOT_ITS_OWN}
    try:
        # All values as text: YAML would read 24:00:00 as a number of seconds.
        content = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
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
