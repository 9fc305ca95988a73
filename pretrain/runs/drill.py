"""The kill drill: a small run is killed again and again and must end equal to one that was never killed.

  clove drill --data PHOTOS --output DIR [--recipe R] [--kills N] [--KEY VALUE]

Kills (SIGKILL, which no process can catch) fall before the first save, while a checkpoint is
written, in the last step, and at random moments in between, so that at least three different
checkpoints are resumed from. Compared are the last checkpoint (student, follower such as a teacher,
optimizer, random state), the backbone file, and metrics.jsonl, which must have every step once.
"""

import argparse
import contextlib
import functools
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.common.architectures import SMALLEST
from pretrain.common.errors import UserError, refuse
from pretrain.common.json_lines import read_entries
from pretrain.common.signals import EXIT_CODES
from pretrain.config import load_config
from pretrain.data.batches import list_images, steps_per_epoch
from pretrain.data.shards import ShardList
from pretrain.options.command_line import add_all_options, given_values

TIMES = ("images_per_second", "loader_wait")  # these differ from run to run
SMALL = {"architecture": SMALLEST, "epochs": 3, "workers": 1, "probe_images": 4, "device": "cpu",
         "deterministic": True}  # of a GPU, where one is asked for
OWN = ("checkpoint_every", "log_every")  # options that the drill sets itself
CHECKPOINTS = 9  # in a whole run
IMAGES = 96  # taken from a larger folder
DIFFERENT = 3  # checkpoints that must be resumed from
PATIENCE = 1800.0  # seconds that one part of a run may take


@dataclass(frozen=True)
class Kill:
    """A moment: `delay` seconds after `due(output)`, asked every few milliseconds, is true."""

    name: str
    due: Callable[[Path], bool]
    delay: float = 0.0


def logged_steps(output: Path) -> list[int]:
    """Steps with a line of losses in metrics.jsonl, in its order; a line that a kill cut off does
    not count."""
    return [entry["step"] for entry in read_entries(output / "metrics.jsonl") if "loss" in entry]


def saved_steps(output: Path) -> list[int]:
    """Steps with a finished checkpoint."""
    return sorted(int(path.stem.removeprefix("step_")) for path in (output / "checkpoints").glob("step_*.json"))


def kills(number: int, steps: int, step_seconds: float, seed: int) -> list[Kill]:
    """The three special moments and between them random ones, spread over the run."""
    rng = np.random.default_rng(seed)
    # A part begins at the last checkpoint before the kill of the one before: the moments must move on.
    borders = np.linspace(steps / CHECKPOINTS * 2, steps - 1, max(number - 3, 0) + 1)
    random = []
    for low, high in itertools.pairwise(borders):
        after = int(rng.integers(math.ceil(low), max(int(high), math.ceil(low) + 1)))
        random.append(Kill(f"at random, after step {after}", lambda output, after=after: after in logged_steps(output),
                           rng.uniform(0, step_seconds)))
    return [
        Kill("before the first save", lambda output: bool(logged_steps(output)) and not saved_steps(output)),
        Kill("while a checkpoint is written",
             lambda output: bool(saved_steps(output)) and any((output / "checkpoints").glob(".step_*.part.*"))),
        *random,
        Kill("in the last step", lambda output: steps - 1 in logged_steps(output)),
    ]


def run_part(command: list[str], output: Path, kill: Kill | None, log: Path) -> bool:
    """Start the run once; returns whether it was killed. Raises `UserError` when it fails or
    hangs."""
    start = time.monotonic()
    with open(log, "ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None and time.monotonic() - start < PATIENCE:
                if kill is not None and kill.due(output):
                    time.sleep(kill.delay)
                    return True
                time.sleep(0.002)
            code = process.poll()
        finally:
            process.kill()
            process.wait()
    if code is None:
        raise UserError(f"the run in {output} took more than {PATIENCE:.0f} s; see {log}")
    if code:
        raise UserError(f"the run in {output} failed with exit code {code}; see {log}")
    return False


def difference(one: Any, other: Any, place: str = "") -> str:
    """The place and kind of the first difference of two nested values; "" when they are equal bit
    for bit."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return f"{place}: {len(one)} and {len(other)} entries"
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{place}: keys {sorted(map(str, one.keys() ^ other.keys()))[:3]}"
        for key in one:
            found = difference(one[key], other[key], f"{place}/{key}")
            if found:
                return found
        return ""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        equal = one.dtype == other.dtype and torch.equal(one, other)
    else:
        equal = one == other
    return "" if equal else place or "the value itself"


def compare(whole: Path, killed: Path, steps: int) -> list[str]:
    """What differs between two finished runs, one line each."""
    name, problems = f"checkpoints/step_{steps:08d}.pt", []
    load = functools.partial(torch.load, map_location="cpu", weights_only=True)
    state, other = load(whole / name), load(killed / name)
    for part in state:
        place = difference(state[part], other.get(part), part)
        if place:
            problems.append(f"{part} differs at {place}")
    if (whole / "backbone.safetensors").read_bytes() != (killed / "backbone.safetensors").read_bytes():
        problems.append("backbone.safetensors differs")
    if logged_steps(killed) != list(range(1, steps + 1)):
        problems.append(f"metrics.jsonl: expected the steps 1 to {steps} once each, found {logged_steps(killed)}")
    if _logged(whole) != _logged(killed):
        problems.append("metrics.jsonl holds other values")
    return problems


def _logged(output: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times."""
    entries = read_entries(output / "metrics.jsonl")
    for entry in entries:
        for name in TIMES:
            entry.pop(name, None)
    return entries


def drill(data: Path, output: Path, arguments: list[str], number: int = 6, seed: int = 0) -> list[str]:
    """Run the drill below `output`; returns what differs (nothing when all is well), prints what
    happens.

    `arguments`: of `clove pretrain`, without data and output; they must log every step.
    """
    whole, killed, log = output / "whole", output / "killed", output / "killed.log"
    command = [sys.executable, "-P", "-m", "pretrain", "--data", str(data), *arguments, "--output"]
    whole.mkdir(parents=True)
    start = time.monotonic()
    run_part([*command, str(whole)], whole, None, output / "whole.log")
    seconds = time.monotonic() - start
    steps = json.loads((whole / "done.json").read_text(encoding="utf-8"))["steps"]
    print(f"not killed: {steps} steps in {seconds:.0f} s", flush=True)
    log.touch()
    resumed_from = []
    for kill in [*kills(number, steps, 0.5 * seconds / steps, seed), None]:
        before = log.stat().st_size
        hit = run_part([*command, str(killed)], killed, kill, log)
        said = log.read_bytes()[before:].decode(errors="replace")
        found = re.findall(r"resumes from step (\d+)", said)
        resumed_from += map(int, found)
        ending = f"killed {kill.name}" if hit else "ran to its end"
        print(f"{ending}: from step {''.join(found) or 0}, logged up to {max(logged_steps(killed), default=0)}",
              flush=True)
        if not hit:
            break
    different = sorted(set(resumed_from))
    shown = ", ".join(map(str, different)) or "none"
    print(f"resumed {len(resumed_from)} times, from the checkpoints of steps {shown}")
    if len(different) < DIFFERENT:
        return [f"expected at least {DIFFERENT} different checkpoints to be resumed from, found {shown}: give more "
                "--kills, or --epochs"]
    return compare(whole, killed, steps)


def few_images(data: Path, folder: Path) -> Path:
    """`data`, or when it is a larger folder of images a new `folder` with links to some of them,
    evenly spaced."""
    names = list_images(data)
    if len(names) <= IMAGES or isinstance(names, ShardList):
        return data
    folder.mkdir(parents=True)
    for number in np.linspace(0, len(names) - 1, IMAGES).astype(int).tolist():
        source = data / names[number]
        link = folder / names[number]  # with its folder and name, which may say its class
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(source.resolve())
    return folder


def small_arguments(recipe: str, data: Path, given: dict[str, Any]) -> list[str]:
    """Arguments for `clove pretrain`: `given` values over those that make the recipe small and
    log every step. Raises `UserError` when there would be too few steps."""
    values = SMALL | given
    config = load_config(recipe, values)
    steps = config.train.epochs * steps_per_epoch(len(list_images(data)), config.train)
    if steps < 2 * CHECKPOINTS:
        raise UserError(f"the drill needs at least {2 * CHECKPOINTS} steps, found {steps}: give more --epochs or a "
                        "smaller --batch-size")
    values |= {"checkpoint_every": steps // CHECKPOINTS, "log_every": 1}
    arguments = ["--recipe", recipe]
    for key, value in values.items():
        several = value if isinstance(value, list) else [value]
        arguments += [f"--{key.replace('_', '-')}", *map(str, several)]
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """The command line of `drill`: its own options, and one for each value of the configuration."""
    parser = argparse.ArgumentParser(
        prog="clove drill", usage="clove drill --data DIR --output DIR [options]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="folder of images")
    add("--output", type=Path, required=True, metavar="DIR", help="a new folder, removed at the end")
    add("--recipe", default="demo", metavar="NAME|FILE", help="of the run (default demo, made smaller)")
    add("--kills", type=int, default=6, metavar="N", help="how many, at least 4 (default 6)")
    add("--moments", type=int, default=0, metavar="SEED", help="seed of the random moments (default 0)")
    add_all_options(parser)
    return parser


@contextlib.contextmanager
def _removed_after(folder: Path, *errors: type[BaseException]) -> Iterator[None]:
    """Remove the folder when one of these errors ends the block."""
    try:
        yield
    except errors:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def main(arguments: list[str]) -> int:
    """Run what the arguments after `drill` ask for; exit code 1 when something differs."""
    args = build_parser().parse_args(arguments)
    given = given_values(args)
    own = [f"--{key.replace('_', '-')}" for key in OWN if key in given]
    inside = Path(os.path.realpath(args.output)).is_relative_to(os.path.realpath(args.data))
    refuse(
        (args.kills < 4, f"--kills must be at least 4, found {args.kills}: before the first save, in a save, in the "
                         "last step, and one at random"),
        (args.moments < 0, f"--moments must be at least 0, found {args.moments}"),
        (own, f"{' and '.join(own)}: the drill sets this itself, so that there is something to kill; leave it out"),
        (inside, f"--output {args.output} lies inside --data {args.data}: choose an --output outside"),
        (args.output.exists(), f"--output {args.output}: expected a new folder, which the drill fills and removes, "
                               "found that it exists; choose another --output"),
    )
    with _removed_after(args.output, UserError):
        data = few_images(args.data, args.output / "photos")
        run_arguments = small_arguments(args.recipe, data, given)
    # The run under way is ended, too, when this process is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_CODES[signal.SIGTERM]))
    with _removed_after(args.output, KeyboardInterrupt, SystemExit):
        problems = drill(data, args.output, run_arguments, args.kills, args.moments)
    if problems:
        for line in problems:
            print(f"error: {line}", file=sys.stderr)
        print(f"the runs are kept in {args.output}", file=sys.stderr)
        return 1
    print("equal, bit for bit: student, follower, optimizer, random state, backbone, metrics.jsonl")
    shutil.rmtree(args.output)
    return 0
