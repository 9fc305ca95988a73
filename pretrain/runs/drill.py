"""The kill drill: a small run is killed again and again and must end equal to one that nobody disturbed.

  python -m pretrain drill --data PHOTOS --output DIR [--recipe R] [--kills N] [--KEY VALUE]

Kills (SIGKILL, which nobody can catch) fall before the first save, inside the writing of a checkpoint, in the last
step, and at random moments in between, so that at least three different checkpoints are resumed from. Compared are the
last checkpoint (student, follower such as a teacher, optimizer, random state), the backbone file, and metrics.jsonl,
which must have every step once.
"""

import argparse
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain.common.architectures import SMALLEST
from pretrain.common.errors import UserError
from pretrain.common.json_lines import read_entries
from pretrain.common.signals import EXIT_CODES
from pretrain.config import load_config
from pretrain.data.batches import list_images, steps_per_epoch
from pretrain.data.shards import ShardList
from pretrain.options.command_line import add_all_options, given_values

TIMES = ("images_per_second", "loader_wait")  # of the machine's mood, not of the run
SMALL = {"architecture": SMALLEST, "epochs": 3, "workers": 1, "probe_images": 4}
OWN = ("checkpoint_every", "log_every")  # values that the drill sets
CHECKPOINTS = 9  # in a whole run
IMAGES = 96  # taken from a larger folder
DIFFERENT = 3  # checkpoints that must be resumed from
PATIENCE = 1800.0  # seconds that one part of a run may take


@dataclass(frozen=True)
class Kill:
    """A moment: `delay` seconds after `due(output)`, which is asked every few milliseconds, is true."""

    name: str
    due: Callable[[Path], bool]
    delay: float = 0.0


def logged_steps(output: Path) -> list[int]:
    """Steps with a line of losses in metrics.jsonl, as they stand there; a line that a kill cut off does not count."""
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


def run_part(command: list[str], output: Path, kill: Kill | None, log: Path) -> tuple[int, bool]:
    """Start the run once; returns its exit code and whether it was killed. Raises `UserError` when it hangs."""
    start = time.monotonic()
    with open(log, "ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                if time.monotonic() - start > PATIENCE:
                    raise UserError(f"a part of the run took more than {PATIENCE:.0f} s; its words are in {log}")
                if kill is not None and kill.due(output):
                    time.sleep(kill.delay)
                    process.kill()
                    process.wait()
                    return process.returncode, True
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
    return process.returncode, False


def difference(one: Any, other: Any, place: str = "") -> str:
    """Where two nested values differ first, in words; "" when they are equal bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return f"{place}: keys {sorted(map(str, one.keys() ^ other.keys()))[:3]}"
        found = (difference(one[key], other[key], f"{place}/{key}") for key in one)
        return next((text for text in found if text), "")
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            return f"{place}: {len(one)} and {len(other)} entries"
        found = (difference(a, b, f"{place}/{index}") for index, (a, b) in enumerate(zip(one, other, strict=True)))
        return next((text for text in found if text), "")
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        equal = one.dtype == other.dtype and torch.equal(one, other)
    else:
        equal = one == other
    return "" if equal else place or "the value itself"


def compare(whole: Path, killed: Path, steps: int) -> list[str]:
    """What differs between two finished runs, one line each."""
    name = f"checkpoints/step_{steps:08d}.pt"
    states = [torch.load(output / name, map_location="cpu", weights_only=True) for output in (whole, killed)]
    problems = []
    for part in states[0]:
        place = difference(states[0][part], states[1].get(part), part)
        if place:
            problems.append(f"{part} differs at {place}")
    if (whole / "backbone.safetensors").read_bytes() != (killed / "backbone.safetensors").read_bytes():
        problems.append("backbone.safetensors differs")
    if logged_steps(killed) != list(range(1, steps + 1)):
        problems.append(f"metrics.jsonl: expected the steps 1 to {steps} once each, found {logged_steps(killed)}")
    if _logged(whole) != _logged(killed):
        problems.append("metrics.jsonl holds other figures")
    return problems


def _logged(output: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without times."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        for name in TIMES:
            line.pop(name, None)
    return lines


def drill(data: Path, output: Path, words: list[str], number: int = 6, seed: int = 0) -> list[str]:
    """Run the drill below `output`; returns what differs (nothing when all is well), prints what happens.

    `words`: of `python -m pretrain`, without data and output; they must log every step.
    """
    whole, killed = output / "whole", output / "killed"
    command = [sys.executable, "-P", "-m", "pretrain", "--data", str(data), *words, "--output"]
    whole.mkdir(parents=True)
    start = time.monotonic()
    code, _ = run_part([*command, str(whole)], whole, None, output / "whole.log")
    seconds = time.monotonic() - start
    if code:
        raise UserError(f"the undisturbed run ended with exit code {code}; its words are in {output / 'whole.log'}")
    steps = json.loads((whole / "done.json").read_text(encoding="utf-8"))["steps"]
    print(f"undisturbed: {steps} steps in {seconds:.0f} s", flush=True)
    resumed_from = []
    log = output / "killed.log"
    for kill in [*kills(number, steps, 0.5 * seconds / steps, seed), None]:
        before = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        code, hit = run_part([*command, str(killed)], killed, kill, log)
        said = log.read_text(encoding="utf-8", errors="replace")[len(before):]
        found = re.search(r"goes on from step (\d+)", said)
        resumed_from += [int(found[1])] if found else []
        if not hit and code:
            raise UserError(f"a part of the run ended by itself with exit code {code}; its words are in {log}")
        where = f"from step {found[1] if found else 0}, logged up to {max(logged_steps(killed), default=0)}"
        print(f"killed {kill.name}: {where}" if hit else f"ran to its end: {where}", flush=True)
        if not hit:
            break
    shown = ", ".join(map(str, sorted(set(resumed_from)))) or "none"
    print(f"resumed {len(resumed_from)} times, from the checkpoints of steps {shown}")
    if len(set(resumed_from)) < DIFFERENT:
        return [f"expected at least {DIFFERENT} different checkpoints to be resumed from, found {shown}: give more "
                "--kills, or --epochs"]
    return compare(whole, killed, steps)


def few_images(data: Path, folder: Path) -> Path:
    """`data`, or when it is a larger folder of images a new `folder` with links to some of them, evenly spaced."""
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


def small_words(recipe: str, data: Path, given: dict[str, Any]) -> list[str]:
    """Words for `python -m pretrain`: `given` values over what makes the recipe small and watchable."""
    values = SMALL | given
    config = load_config(recipe, values)
    steps = config.train.epochs * steps_per_epoch(len(list_images(data)), config.train)
    if steps < 2 * CHECKPOINTS:
        raise UserError(f"the drill needs at least {2 * CHECKPOINTS} steps, found {steps}: give more --epochs or a "
                        "smaller --batch-size")
    values |= dict(zip(OWN, (steps // CHECKPOINTS, 1), strict=True))
    words = ["--recipe", recipe]
    for key, value in values.items():
        words += [f"--{key.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return words


def build_parser() -> argparse.ArgumentParser:
    """The command line of `drill`: its own options, and one for each value of the configuration."""
    parser = argparse.ArgumentParser(
        prog="python -m pretrain drill", usage="python -m pretrain drill --data DIR --output DIR [options]",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of images")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new folder, removed at the end")
    parser.add_argument("--recipe", default="demo", metavar="NAME|FILE", help="of the run (default demo, made smaller)")
    parser.add_argument("--kills", type=int, default=6, metavar="N", help="how many, at least 4 (default 6)")
    parser.add_argument("--moments", type=int, default=0, metavar="SEED", help="seed of the random moments (default 0)")
    add_all_options(parser)
    return parser


def main(arguments: list[str]) -> int:
    """Run what the words after `drill` ask for; exit code 1 when something differs."""
    args = build_parser().parse_args(arguments)
    if args.kills < 4:
        raise UserError(f"--kills must be at least 4, found {args.kills}: before the first save, in a save, in the "
                        "last step, and one at random")
    if args.moments < 0:
        raise UserError(f"--moments must be at least 0, found {args.moments}")
    given = given_values(args)
    if own := [f"--{key.replace('_', '-')}" for key in OWN if key in given]:
        raise UserError(f"{' and '.join(own)}: the drill sets this itself, so that there is something to kill; leave "
                        "it out")
    if Path(os.path.realpath(args.output)).is_relative_to(os.path.realpath(args.data)):
        raise UserError(f"--output {args.output} lies inside --data {args.data}: choose an --output outside")
    if args.output.exists():
        raise UserError(f"{args.output} exists: expected a new folder for --output, which the drill fills and removes")
    data = few_images(args.data, args.output / "photos")
    try:
        words = small_words(args.recipe, data, given)
    except UserError:
        shutil.rmtree(args.output, ignore_errors=True)
        raise
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_CODES[signal.SIGTERM]))  # the part under way is ended then
    try:
        problems = drill(data, args.output, words, args.kills, args.moments)
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(args.output, ignore_errors=True)
        raise
    for line in problems:
        print(f"error: {line}", file=sys.stderr)
    if problems:
        print(f"the runs are kept in {args.output}", file=sys.stderr)
        return 1
    print("equal, bit for bit: student, follower, optimizer, random state, backbone, metrics.jsonl")
    shutil.rmtree(args.output)
    return 0
