"""One stage as a job. Its key follows from its parents' outputs, so it is computed here, when
they are done."""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.slurm import jobs, launch, local_copy
from benchmarks.slurm.job_signals import JobSignals
from benchmarks.slurm.jobs import GONE, Ending
from benchmarks.stages.child_processes import start_command
from benchmarks.stages.error_line import error_line
from benchmarks.stages.print_tables import print_tables
from benchmarks.stages.saved_plan import Plan, read_plan
from benchmarks.stages.stage import (
    Stage,
    StageFailed,
    by_name,
    finish_stage,
    finished,
    read_stamp,
    run_stage,
)
from pretrain.common.errors import KILLED, UserError, refuse
from pretrain.common.signals import COME_BACK

ENDED_BY_SIGNAL = (COME_BACK, 128 + signal.SIGTERM, -signal.SIGUSR2, -signal.SIGTERM)
PATIENCE = 60.0  # seconds until a network file system shows on one node what another one has written


@dataclass(frozen=True)
class Work:
    """A stage whose parents are done: its folder below `output`, its key, the parents' folders by name."""

    stage: Stage
    output: Path
    folder: Path
    key: str
    parents: dict[str, Path]


@dataclass(frozen=True)
class StageJob(launch.Job):
    """One process of the job of stage `name`. `plan`: the folder of plan.json. `folder`: of the
    stage's notes."""

    name: str
    plan: Path
    folder: Path
    code: Path

    def work(self, job: Any, signals: JobSignals) -> Ending:
        """Run the stage, unless it is done; the first process writes its stamp."""
        plan = read_plan(self.plan)
        if job.global_rank == 0:
            (self.folder / jobs.CANCELLED).unlink(missing_ok=True)
            jobs.note_start(self.folder, job.job_id, socket.gethostname())
        if self.name == jobs.TABLES:
            return self._tables(plan)
        stages = by_name(plan.stages())
        stage = stages[self.name]
        output = plan.options.output
        parents, hashes = _parents(stage, stages, output, jobs.newest(output))
        key = stage.key(hashes)
        work = Work(stage, output, stage.folder(output, key), key, parents)
        if read_stamp(stage, work.folder, key) is not None:
            if stage.finish is not None:
                stage.finish(work.folder, key)
            return Ending(0, f"stage {self.name} was done before")
        if plan.options.cluster.local_disk:
            start = f"{job.job_id}, start {os.environ.get('SLURM_RESTART_COUNT', 0)}"
            watch = partial(self.ended_when_stalled, job.global_rank, signals)
            work = replace(work, stage=with_local_data(stage, plan.options.cluster.local_disk, start, watch))
        if stage.kind == "pretrain":
            return self._pretrain(job, signals, work)
        return self._child(job, signals, work)

    def _pretrain(self, job: Any, signals: JobSignals, work: Work) -> Ending:
        """In this process, without a child: submitit started as many as there are GPUs."""
        from pretrain.__main__ import parse

        started = time.monotonic()
        command = work.stage.command(work.folder, work.parents)
        args, config = parse(command[command.index("pretrain") + 1:])
        with self.ended_when_stalled(job.global_rank, signals):
            ending = launch.run_pretraining(config, args.data, args.output, job, signals)
        if ending.exit_code == 0 and job.global_rank == 0:
            finish_stage(work.stage, work.folder, work.key, started)
        return ending

    def _child(self, job: Any, signals: JobSignals, work: Work) -> Ending:
        def run(command: list[str]) -> int:
            """As `Children.run`, but a signal may come twice: it is passed on once, and the child
            may save until it is killed with this process."""
            process, passed_on = start_command(command, {"GOMP_SPINCOUNT": "3000"} | os.environ), False
            while process.poll() is None:
                if signals.stop() and not passed_on:
                    process.send_signal(signal.SIGUSR2 if signals.stop() == COME_BACK else signal.SIGTERM)
                    passed_on = True
                time.sleep(0.1)
            if process.returncode in ENDED_BY_SIGNAL:
                time.sleep(1)  # Slurm signals the child and this process, which may get it a moment later
            return process.returncode

        try:
            run_stage(work.stage, work.output, work.key, work.parents, run)
        except StageFailed as failed:
            if signals.stop():
                message = f"stage {self.name} stopped; it resumes from its newest checkpoint"
                return Ending(signals.stop(), message, job.global_rank)
            if failed.killed:
                return Ending(KILLED, self._why_killed(failed, job), job.global_rank)
            return Ending(failed.code, str(failed), job.global_rank)
        return Ending(0, f"stage {self.name} is done")

    def _why_killed(self, failed: StageFailed, job: Any) -> str:
        """In the stage's own words, where it had some: it stalled, or a process of its own was killed."""
        if failed.code == KILLED:
            time.sleep(1)  # until the log has all that it printed
            said = error_line(jobs.log_of(self.folder.parent, job.job_id, job.global_rank))
            if said:
                return f"stage {self.name}: {said}"
        return f"stage {self.name} was {jobs.WAS_KILLED}"

    def _tables(self, plan: Plan) -> Ending:
        """Tables of all results so far, and how the graph ended."""
        from benchmarks.slurm.status import look, verdict

        print_tables(plan.options)
        output = plan.options.output
        over = {record.job_id: jobs.State(GONE) for record in jobs.newest(output).values()}  # this job waited
        code, line = verdict([row for row in look(plan, over) if row.stage != jobs.TABLES])
        print(line, file=sys.stderr if code else sys.stdout, flush=True)
        jobs.note_tables(self.folder, code, line)
        return Ending(0, line)  # this job has done its work, whatever the others did


def with_local_data(
    stage: Stage, disk: str, start: str, watch: Callable[[], AbstractContextManager] = nullcontext
) -> Stage:
    """The stage with its dataset on the node's own disk; its command copies the dataset there
    first.

    `start` names the start of the job: its processes on a node look at the dataset once. `watch`:
    around the copying, which may take longer than Slurm waits for after its signal.
    """
    def command(folder: Path, parents: dict[str, Path]) -> list[str]:
        arguments = stage.command(folder, parents)
        if "--data" in arguments:
            at = arguments.index("--data") + 1
            data = Path(arguments[at])
            if not stage.task or local_copy.holds_images(data):
                with watch():
                    arguments[at] = str(local_copy.local_copy(data, local_copy.place(disk), start))
        return arguments

    return replace(stage, command=command)


def ancestors(name: str, stages: dict[str, Stage]) -> dict[str, Stage]:
    """All that stage `name` builds on, in the order of `stages`."""
    found: dict[str, Stage] = {}
    for parent in stages[name].parents:
        found |= ancestors(parent, stages) | {parent: stages[parent]}
    return found


def _parents(
    stage: Stage, stages: dict[str, Stage], output: Path, records: dict[str, jobs.StageRecord]
) -> tuple[dict[str, Path], dict[str, str]]:
    """Folders and output hashes of what it needs; waits a little for a slow file system.
    `UserError` when one failed or has no result."""
    deadline = time.monotonic() + PATIENCE
    needed = ancestors(stage.name, stages)
    for name in stage.gates:
        needed[name] = stages[name]
    while True:
        folders, hashes = finished(needed.values(), output)
        absent = [name for name in stage.needs if name not in hashes]
        if not absent:
            return folders, hashes
        for name in absent:  # a preflight, which is waited for however it ends
            endings = records[name].endings() if name in records else []
            if endings:
                raise UserError(f"stage {stage.name} was not started, because {name} failed: "
                                f"{records[name].why(endings[0])}")
        refuse((time.monotonic() > deadline,
                f"stage {stage.name} needs {', '.join(absent)}, found no complete result of it in {output}; "
                "`clove retry --failed` makes that first"))
        time.sleep(2)
