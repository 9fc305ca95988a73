"""What a job asks of a cluster: one frozen set of options, its command line, its checks."""

import argparse
import re
from dataclasses import dataclass, fields
from typing import Any

from pretrain.common.errors import UserError

SLURM_ONLY = ("partition", "account", "mem_gb", "sbatch", "setup", "local_disk")  # this machine has no such thing
TIMEOUTS = 100  # a long run comes back from its time limit this often; submitit's own 3 would end it in a few days
A_MONTH = 30 * 24 * 60


@dataclass(frozen=True)
class ClusterOptions:
    """`cluster`: slurm, or local for this machine, without jobs. `minutes`: time limit of one start of the job.

    `signal_delay`: seconds before the time limit at which the job is told to save. `sbatch`: further options of sbatch,
    by name; True for one without a value. `setup`: shell lines before the job starts, such as `module load`.
    `local_disk`: folder on each node that the datasets are copied to first, with environment variables of the job. None
    leaves the choice to Slurm; for `tasks_per_node` it means one process a GPU, for `cpus_per_task` the loader's
    workers and one more.
    """

    cluster: str = "local"
    partition: str | None = None
    account: str | None = None
    nodes: int = 1
    gpus_per_node: int = 0
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    minutes: int | None = None
    signal_delay: int = 120
    sbatch: tuple[tuple[str, str | bool], ...] = ()
    setup: tuple[str, ...] = ()
    local_disk: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("gpus_per_node", 0), ("tasks_per_node", 1), ("cpus_per_task", 1),
                            ("mem_gb", 1), ("minutes", 1), ("signal_delay", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{_option(name)} must be at least {least}, found {value}")
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise UserError(f"--tasks-per-node {self.tasks_per_node} with --gpus-per-node {self.gpus_per_node}: there "
                            "is one process for each GPU; leave out --tasks-per-node")
        if self.cluster == "local":
            given = [_option(name) for name in SLURM_ONLY if getattr(self, name)]
            if given or self.nodes > 1:
                raise UserError(f"{', '.join(given) or '--nodes above 1'} needs --cluster slurm, found --cluster local")
        elif self.minutes is None:
            raise UserError("--cluster slurm needs --time, the limit of one start of the job; a run that needs longer "
                            "saves, comes back and goes on")
        if self.signal_delay >= self.time_limit * 60:
            raise UserError(f"--signal-delay must be shorter than --time, found {self.signal_delay} and "
                            f"{self.time_limit * 60} seconds")

    @property
    def tasks(self) -> int:
        """Processes on each node."""
        return self.gpus_per_node or self.tasks_per_node or 1

    @property
    def processes(self) -> int:
        """Processes of the job, on all nodes."""
        return self.nodes * self.tasks

    @property
    def time_limit(self) -> int:
        """Minutes that one start of the job may take."""
        return self.minutes or A_MONTH

    def for_slurm(self, name: str, cpus: int, setup: list[str]) -> dict[str, Any]:
        """Parameters of submitit's SlurmExecutor: sbatch's own names, and what submitit adds."""
        return {
            "job_name": name, "partition": self.partition, "account": self.account, "nodes": self.nodes,
            "ntasks_per_node": self.tasks, "gpus_per_node": self.gpus_per_node or None, "cpus_per_task": cpus,
            "time": self.minutes, "signal_delay_s": self.signal_delay, "stderr_to_stdout": True,
            "setup": [*self.setup, *setup],
            # One dead process ends the job: the others would wait for it in a collective. srun does not take over
            # sbatch's --cpus-per-task since Slurm 22.05.
            "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
            "additional_parameters": {"requeue": True, **dict(self.sbatch)},
            "mem": f"{self.mem_gb}GB" if self.mem_gb else None,
        }


def minutes(text: str) -> int:
    """A time limit in minutes, rounded up, from Slurm's notations but one: MM:SS looks like hours and minutes."""
    days = r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?"
    for pattern in (r"(?P<m>\d+)", r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)", days):
        found = re.fullmatch(pattern, text)
        if found:
            part = {"d": 0, "h": 0, "m": 0, "s": 0} | {k: int(v) for k, v in found.groupdict().items() if v}
            return part["d"] * 1440 + part["h"] * 60 + part["m"] + -(-part["s"] // 60)
    hint = " (Slurm reads two numbers as minutes and seconds)" if re.fullmatch(r"\d+:\d+", text) else ""
    raise UserError(f"--time: expected minutes, HH:MM:SS, D-HH or D-HH:MM:SS, found {text!r}{hint}")


def add_options(group: argparse._ActionsContainer) -> None:
    """The command line of `ClusterOptions`; `read_options` reads it."""
    group.add_argument("--cluster", choices=("local", "slurm"), default="local", help="default: local, on this machine")
    group.add_argument("--partition", metavar="P")
    group.add_argument("--account", metavar="A")
    group.add_argument("--nodes", type=int, default=1, metavar="N", help="default 1")
    group.add_argument("--gpus-per-node", type=int, default=0, metavar="N", help="one process each (default 0: CPU)")
    group.add_argument("--tasks-per-node", type=int, metavar="N", help="processes on a node without GPUs (default 1)")
    group.add_argument("--cpus-per-task", type=int, metavar="N", help="default: the loader's workers and one more")
    group.add_argument("--mem-gb", type=int, metavar="N", help="memory of a node")
    group.add_argument("--time", metavar="T", help="limit of one start, as minutes, HH:MM:SS or D-HH; a longer run "
                                                   "saves, comes back and goes on")
    group.add_argument("--signal-delay", type=int, default=120, metavar="S",
                       help="seconds before the limit at which the run begins to save (default 120)")
    group.add_argument("--sbatch", action="append", default=[], metavar="NAME[=VALUE]",
                       help="any other option of sbatch, such as constraint=a100 or exclusive; may be repeated")
    group.add_argument("--setup", action="append", default=[], metavar="LINE",
                       help="a shell line before the job starts, such as 'module load cuda'; may be repeated")


def read_options(args: argparse.Namespace) -> ClusterOptions:
    """Raises `UserError` for what does not fit together."""
    further = []
    for text in args.sbatch:
        name, sign, value = text.partition("=")
        if not re.fullmatch(r"[a-z][a-z-]*", name):
            raise UserError(f"--sbatch: expected NAME=VALUE or NAME with a long option of sbatch, found {text!r}")
        further.append((name, value if sign else True))
    given = {one.name: getattr(args, one.name) for one in fields(ClusterOptions) if one.name in vars(args)}
    return ClusterOptions(**given | {"minutes": minutes(args.time) if args.time else None,
                                     "sbatch": tuple(further), "setup": tuple(args.setup)})


def _option(name: str) -> str:
    return "--time" if name == "minutes" else f"--{name.replace('_', '-')}"
