"""What a job asks of a cluster: one frozen set of options, its command line, its checks."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.options.checks import at_least, option_of
from pretrain.common.errors import UserError, refuse

# This machine has no such thing.
SLURM_ONLY = ("partition", "account", "gpus_per_node", "tasks_per_node", "cpus_per_task", "mem_gb", "time", "sbatch",
              "setup", "local_disk", "max_jobs", "retries")
LEAST = {"nodes": 1, "gpus_per_node": 0, "tasks_per_node": 1, "cpus_per_task": 1, "mem_gb": 1, "signal_delay": 1,
         "max_jobs": 1, "retries": 0}
TIMEOUTS = 100  # a long run comes back from its time limit this often; submitit's own 3 would end it in a few days
RETRIES = 2  # a job that was killed more often lacks memory
TIMES = (r"(?P<m>\d+)", r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)", r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?")


@dataclass(frozen=True)
class ClusterOptions:
    """`cluster`: slurm, or local for this machine, without jobs. `minutes`: time limit of one start
    of the job.

    `signal_delay`: seconds before the time limit at which the job gets the signal to save.
    `sbatch`: further options of sbatch, by name; True for one without a value. `setup`: shell lines
    before the job starts, such as `module load`. `local_disk`: folder on each node that the
    datasets are copied to first, with environment variables of the job. `retries`:
    how often a job starts again what was killed in it. None leaves the choice to
    Slurm; for `tasks_per_node` it means one process for each GPU, for `cpus_per_task` the loader's
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
    retries: int = RETRIES

    @property
    def tasks(self) -> int:
        """Processes on each node."""
        return self.gpus_per_node or self.tasks_per_node or 1

    @property
    def processes(self) -> int:
        """Processes of the job, on all nodes."""
        return self.nodes * self.tasks

    def for_slurm(self, cpus: int, setup: list[str]) -> dict[str, Any]:
        """Parameters of submitit's SlurmExecutor: sbatch's own names, and what submitit adds."""
        return {
            "partition": self.partition, "account": self.account, "nodes": self.nodes,
            "ntasks_per_node": self.tasks, "cpus_per_task": cpus,
            "time": self.minutes, "signal_delay_s": self.signal_delay, "stderr_to_stdout": True,
            "setup": [*self.setup, *setup],
            # One dead process ends the job: the others would wait for it in a collective. srun does
            # not take over sbatch's --cpus-per-task since Slurm 22.05.
            "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={cpus}"],
            "mem": f"{self.mem_gb}GB" if self.mem_gb else None,
        }


def minutes(text: str) -> int:
    """A time limit in minutes, rounded up, from Slurm's notations but one: MM:SS looks like hours and minutes."""
    for pattern in TIMES:
        found = re.fullmatch(pattern, text)
        if found:
            part = {"d": 0, "h": 0, "s": 0, **found.groupdict(default=0)}
            seconds = int(part["s"]) + 60 * int(part["m"]) + 3600 * int(part["h"]) + 86400 * int(part["d"])
            return -(-seconds // 60)
    hint = " (Slurm reads two numbers as minutes and seconds)" if re.fullmatch(r"\d+:\d+", text) else ""
    raise UserError(f"--time: expected minutes, HH:MM:SS, D-HH or D-HH:MM:SS, found {text!r}{hint}")


def add_options(group: argparse._ActionsContainer) -> None:
    """The command line of `ClusterOptions` and of the jobs; `read_options` reads it."""
    group.add_argument("--cluster", choices=("local", "slurm"), default="local",
                       help="default: local, on this machine")
    group.add_argument("--partition", metavar="P")
    group.add_argument("--account", metavar="A")
    group.add_argument("--nodes", type=int, default=1, metavar="N", help="default 1")
    group.add_argument("--gpus-per-node", type=int, default=0, metavar="N",
                       help="one process each (default 0: CPU)")
    group.add_argument("--tasks-per-node", type=int, metavar="N",
                       help="processes on a node without GPUs (default 1)")
    group.add_argument("--cpus-per-task", type=int, metavar="N",
                       help="default: the loader's workers and one more")
    group.add_argument("--mem-gb", type=int, metavar="N", help="memory of a node")
    group.add_argument("--time", metavar="T",
                       help="limit of one start, as minutes, HH:MM:SS or D-HH; a longer run saves, "
                            "is requeued and resumes")
    group.add_argument("--signal-delay", type=int, default=120, metavar="S",
                       help="seconds before the limit at which the run begins to save (default "
                            "120)")
    group.add_argument("--sbatch", action="append", default=[], metavar="NAME[=VALUE]",
                       help="any other option of sbatch, such as constraint=a100 or exclusive; may "
                            "be repeated")
    group.add_argument("--setup", action="append", default=[], metavar="LINE",
                       help="a shell line before the job starts, such as 'module load cuda'; may "
                            "be repeated")
    group.add_argument("--retries", type=int, metavar="N",
                       help="how often a job starts again what SIGKILL or too little memory ended "
                            f"in it (default {RETRIES})")
    group.add_argument("--max-jobs", type=int, metavar="N",
                       help="jobs at once (default: as many as Slurm starts)")
    group.add_argument("--local-disk", metavar="DIR",
                       help="copy each dataset to this folder of the node first, if it fits, such "
                            "as /scratch or '$TMPDIR'; it stays there for later jobs")
    group.add_argument("--cluster-file", type=Path, metavar="FILE",
                       help="these options from a file; the command line overrides it (default: "
                            "cluster.yaml, if it is in this folder; "
                            "benchmarks/cluster.example.yaml is an example)")


def read_options(args: argparse.Namespace) -> ClusterOptions:
    """The cluster's options; none of them is for a run on this machine. Raises `UserError`."""
    at_least(args, LEAST)
    sbatch: dict[str, str | bool] = {}
    for text in args.sbatch:
        name, sign, value = text.partition("=")
        refuse((not re.fullmatch(r"[a-z][a-z-]*", name),
                "--sbatch: expected NAME=VALUE or NAME with a long option of sbatch, found "
                f"{text!r}"))
        sbatch[name] = value if sign else True
    limit = minutes(args.time) if args.time else None
    used = [option_of(name) for name in SLURM_ONLY if getattr(args, name)]
    if args.nodes > 1:
        used.append("--nodes")
    refuse(
        (args.cluster == "local" and used,
         f"{', '.join(used)} needs --cluster slurm, found --cluster local (GPUs of this machine: "
         "--gpus)"),
        (args.cluster == "slurm" and limit is None,
         "--cluster slurm needs --time, the limit of one start of the job; a run that needs longer "
         "saves, is requeued and resumes"),
        (limit == 0, "--time must be at least 1, found 0"),
        (limit and args.signal_delay >= limit * 60,
         f"--signal-delay must be shorter than --time, found {args.signal_delay} seconds and "
         f"{limit} minutes"),
        (args.gpus_per_node and args.tasks_per_node not in (None, args.gpus_per_node),
         f"--tasks-per-node {args.tasks_per_node} with --gpus-per-node {args.gpus_per_node}: there "
         "is one process for each GPU; leave out --tasks-per-node"),
        ("dependency" in sbatch or "array" in sbatch,
         "--sbatch dependency and array are what the graph itself sets: leave them out"),
    )
    return ClusterOptions(
        cluster=args.cluster, partition=args.partition, account=args.account, nodes=args.nodes,
        gpus_per_node=args.gpus_per_node, tasks_per_node=args.tasks_per_node,
        cpus_per_task=args.cpus_per_task, mem_gb=args.mem_gb, minutes=limit,
        signal_delay=args.signal_delay, sbatch=tuple(sbatch.items()), setup=tuple(args.setup),
        local_disk=args.local_disk, retries=RETRIES if args.retries is None else args.retries)
