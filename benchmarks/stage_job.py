"""One stage as a job. Its key follows from its parents' outputs, so that it is worked out here, when they are done."""

import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import jobs, launch
from benchmarks.follow import Ending
from benchmarks.launch import JobSignals, PretrainJob
from benchmarks.saved_plan import Plan, read_plan
from benchmarks.stage import Stage, StageFailed, finish_stage, read_stamp, run_stage, start_command
from pretrain.errors import UserError
from pretrain.signals import COME_BACK

TABLES = "tables"  # the last job of a graph: no stage, for it is never done
PATIENCE = 60.0  # seconds until a network file system shows on one node what another one has written


@dataclass(frozen=True)
class StageJob(launch.Job):
    """One process of the job of stage `name`. `plan`: the folder of plan.json. `folder`: of the stage's notes."""

    name: str
    plan: Path
    folder: Path
    code: Path
    checkout: Path  # where the submission was made: its results/reported are what the tables show beside ours

    def work(self, job: Any, signals: JobSignals) -> Ending:
        """Do the stage, unless it is done; the first process writes its stamp."""
        plan = read_plan(self.plan)
        if job.global_rank == 0:
            (self.folder / jobs.CANCELLED).unlink(missing_ok=True)
            jobs.note_start(self.folder, job.job_id, socket.gethostname())
        if self.name == TABLES:
            return self._tables(plan)
        stages = {stage.name: stage for stage in plan.stages()}
        stage = stages[self.name]
        folders, hashes = _parents(stage, stages, plan.options.output)
        key = stage.key(hashes)
        folder = stage.folder(plan.options.output, key)
        if read_stamp(stage, folder, key) is not None:
            if stage.finish is not None:
                stage.finish(folder, key)
            return Ending(0, f"stage {self.name} was done before")
        if stage.kind == "pretrain":
            return self._pretrain(job, signals, stage, folder, key, folders)
        return self._child(job, signals, stage, plan.options.output, key, folders)

    def _pretrain(
        self, job: Any, signals: JobSignals, stage: Stage, folder: Path, key: str, parents: dict[str, Path]
    ) -> Ending:
        """All processes of it are ours: no child, for submitit started as many as there are GPUs."""
        from pretrain.__main__ import parse

        started = time.monotonic()
        words = stage.command(folder, parents)
        args, config = parse(words[words.index("pretrain") + 1:])
        ending = PretrainJob(config, args.data, args.output, self.folder, self.code).work(job, signals)
        if ending.exit_code == 0 and job.global_rank == 0:
            finish_stage(stage, folder, key, started)
        return ending

    def _child(
        self, job: Any, signals: JobSignals, stage: Stage, output: Path, key: str, parents: dict[str, Path]
    ) -> Ending:
        def run(command: list[str], environment: dict[str, str]) -> int:
            """As `stage.run_command`, but what we are told may come twice: it is passed on once, and the child is left
            to save until it is killed with us."""
            process, told = start_command(command, environment), False
            while process.poll() is None:
                if signals.stop() and not told:
                    process.send_signal(signal.SIGUSR2 if signals.stop() == COME_BACK else signal.SIGTERM)
                    told = True
                time.sleep(0.1)
            return process.returncode

        environment = {"GOMP_SPINCOUNT": "3000"} | os.environ
        try:
            run_stage(stage, output, key, parents, environment, run)
        except StageFailed as failed:
            if signals.stop():
                return Ending(signals.stop(), f"stage {self.name} stopped; it goes on from its newest checkpoint",
                              job.global_rank)
            return Ending(failed.code, str(failed), job.global_rank)
        return Ending(0, f"stage {self.name} is done")

    def _tables(self, plan: Plan) -> Ending:
        """Tables of all results so far, and how the graph ended."""
        from benchmarks.status import Row, look, verdict
        from benchmarks.tables import print_tables

        print_tables(plan.options, self.checkout)
        rows: list[Row] = [row for row in look(plan, {}) if row.stage != TABLES]
        code, line = verdict(rows)
        print(line, file=sys.stderr if code else sys.stdout)
        # Tables were made: this job itself has done its work, whatever the others did.
        return Ending(0, line)


def _parents(stage: Stage, stages: dict[str, Stage], output: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Folders and output hashes of the parents; waits a little for a slow file system. Raises `UserError`."""
    deadline = time.monotonic() + PATIENCE
    while True:
        folders, hashes, absent = _done(stage, stages, output)
        if not absent:
            return folders, hashes
        if time.monotonic() > deadline:
            raise UserError(f"stage {stage.name} needs {', '.join(absent)}, found no stamp of a whole result in "
                            f"{output}; `python -m benchmarks retry --failed` does that first")
        time.sleep(2)


def _done(
    stage: Stage, stages: dict[str, Stage], output: Path
) -> tuple[dict[str, Path], dict[str, str], list[str]]:
    """Of the finished parents folders and output hashes; the names of the others."""
    folders: dict[str, Path] = {}
    hashes: dict[str, str] = {}
    absent: list[str] = []
    for name in stage.parents:
        parent = stages[name]
        _, above, missing = _done(parent, stages, output)
        if missing:
            absent.append(name)
            continue
        key = parent.key(above)
        stamp = read_stamp(parent, parent.folder(output, key), key)
        if stamp is None:
            absent.append(name)
        else:
            folders[name], hashes[name] = parent.folder(output, key), stamp["output_sha256"]
    return folders, hashes, absent
