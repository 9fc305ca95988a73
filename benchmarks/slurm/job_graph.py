"""The graph as Slurm jobs: stages that are neither done nor under way are submitted, each after
those it needs.

A job is a stage; the fine-tunings of one method, which ask for the same and wait for the same,
are an array, and so are the preflights. A job starts when its parents ended well (`afterok`);
when one cannot any more, Slurm cancels it. Fine-tunings wait for the end of all preflights, and
one whose own has not passed then fails. The last job makes the tables, however the others ended.
"""

import contextlib
import json
import shlex
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from benchmarks.slurm import jobs, launch, snapshot
from benchmarks.slurm.jobs import TABLES, StageRecord, Submitted
from benchmarks.slurm.launch import Resources
from benchmarks.slurm.stage_job import StageJob, ancestors
from benchmarks.stages.print_tables import print_tables
from benchmarks.stages.saved_plan import Plan, read_plan
from benchmarks.stages.stage import Stage, by_name
from benchmarks.stages.standing_results import left_to_do
from pretrain.common.errors import UserError, refuse

SMALL_CPUS, SMALL_GB = 2, 16  # conversion, tables
OWN_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # of each machine
LOADERS = 4  # of a process: detectron2's default, and what a pretraining that leaves it to the machine gets


@dataclass
class Unit:
    """What sbatch gets at once: a job, or an array of jobs that ask for the same.

    `after`: stages that must be over first, however they ended. `limit`: jobs of the array at once.
    """

    name: str
    stages: list[str]
    kind: str
    parents: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    limit: int | None = None

    def wait_for(self, stages: Iterable[str]) -> None:
        """Start after the end of these stages too."""
        self.after = tuple(dict.fromkeys((*self.after, *stages)))


def units(stages: list[Stage], todo: list[str], max_jobs: int | None = None) -> list[Unit]:
    """The stages named in `todo` as units, without the tables, in the order of `stages`."""
    made: dict[str, Unit] = {}
    for stage in stages:
        if stage.name not in todo:
            continue
        together = stage.array or stage.name
        unit = made.setdefault(together, Unit(stage.name, [], stage.kind, stage.parents))
        unit.stages.append(stage.name)
        unit.wait_for(stage.gates)
        if len(unit.stages) > 1:  # finetune-METHOD, preflight
            unit.name = together
    if max_jobs is None:
        return list(made.values())
    return _limit(list(made.values()), stages, max_jobs)


def _limit(made: list[Unit], stages: list[Stage], max_jobs: int) -> list[Unit]:
    """No more than `max_jobs` at once: each method's chain gets its share, and one without a
    share waits for another. Returns the units in the order in which they wait for each other.

    Of a chain (pretraining, conversion, fine-tunings, probes) only the fine-tunings are several
    at once. The demo's data come before all chains. Jobs of an earlier submission that still run
    are not counted.
    """
    by_kind = defaultdict(list)
    for unit in made:
        by_kind[unit.kind].append(unit)
    finetunings, before = by_kind["finetune"], by_kind["preflight"]
    for unit in before:  # one array
        unit.limit = max_jobs
    chains: list[list[Unit]] = []
    chained: list[Unit] = []
    for number, last in enumerate(finetunings):
        share, more = divmod(max_jobs, len(finetunings))
        last.limit = max(share + (number < more), 1)
        chain = _chain(last, made, stages)
        if number >= max_jobs:
            before = chains[number - max_jobs][-1:]
        for unit in before:
            chain[0].wait_for(unit.stages)
        chains.append(chain)
        chained += chain
    return [unit for unit in made if unit not in chained] + chained


def _chain(last: Unit, made: list[Unit], stages: list[Stage]) -> list[Unit]:
    """The units that some fine-tunings build on, the fine-tunings, then the probes of the same
    backbone, one after the other."""
    above = set(ancestors(last.stages[0], by_name(stages))) - {"data"}
    chain = [unit for unit in made if not above.isdisjoint(unit.stages)] + [last]
    for unit in made:
        if unit.kind == "probe" and above.issuperset(set(unit.parents) - {"data"}):
            unit.after = tuple(chain[-1].stages)
            chain.append(unit)
    return chain


def check(plan: Plan) -> None:
    """What would only show when a job has waited for its nodes."""
    from pretrain.data.batches import images_at_once  # imports torch

    output = plan.options.output
    refuse(
        ("%" in str(output),
         f"--output {output}: Slurm and submitit read % as a placeholder; choose a path without it"),
        ("\\" in str(output), f"--output {output}: Slurm drops backslashes; choose a path without it"))
    for one in plan.options.pretrainings:
        train, device_batch = one.config.train, one.config.runtime.device_batch
        images_at_once(train.batch_size, device_batch, plan.options.cluster.processes)


def under_way(plan: Plan, stages: list[Stage]) -> dict[str, StageRecord]:
    """Jobs of earlier submissions that are not over, by stage.

    `UserError` when Slurm does not answer, and when one of them works on other values than those
    of `plan`.
    """
    for record in jobs.find_lost(plan.options.output):
        # Its submission was stopped, perhaps before there was what it reads at its start.
        folder = Path(record.folder)
        code = json.loads((folder / jobs.RECORD).read_text(encoding="utf-8"))["code"]
        task = StageJob(record.stage, folder, record.notes, Path(code))
        launch.complete_submission(folder, record.job_id, task, read_plan(folder).options.cluster.minutes)
    alive = jobs.alive(jobs.every_record(plan.options.output))
    wanted = by_name(stages)
    for record in alive:
        name = record.stage
        refuse(
            ((record.notes / jobs.CANCELLED).is_file(),
             f"job {record.job_id} (stage {name}) was cancelled and has not ended: nothing was submitted, try "
             "again in a minute"),
            (name in wanted and wanted[name].planned != record.identity,
             f"job {record.job_id} works on stage {name} with other values or inputs: wait for it, end it with "
             f"`clove cancel {name}`, or choose another --output"))
    return {record.stage: record for record in alive}


def submit(plan: Plan, only: set[str] | None = None) -> Submitted | None:
    """Submit what is neither done nor under way; None when there is nothing.

    `only` restricts that to some stages and what depends on them. Raises `UserError` when Slurm
    refuses a job: then none is left, nor a file.
    """
    from transfer.records.provenance import code_version  # imports torch

    check(plan)
    output, stages = plan.options.output, plan.stages()
    alive = under_way(plan, stages)
    todo = _todo(stages, done_stages(plan, stages) | alive.keys(), only)
    if not todo and (not alive or TABLES in alive):  # else a submission was stopped before its last job
        return None
    stamp = datetime.now(UTC)
    folder = output / "jobs" / f"{stamp:%Y%m%d-%H%M%S}-{token_hex(2)}"
    code = snapshot.take(launch.ROOT, output / "jobs", code_version())
    submitted = Submitted(str(folder), str(code), stamp.isoformat(timespec="microseconds"))
    folder.mkdir()
    plan.write(folder)
    try:
        ids = {name: record.job_id for name, record in alive.items() if name != TABLES}
        for unit in units(stages, todo, plan.options.max_jobs):
            _submit(unit, plan, submitted, ids)
        # A second tables job beside one that still waits does no harm: it comes after more.
        _submit(Unit(TABLES, [TABLES], "small", after=tuple(ids)), plan, submitted, ids)
    except BaseException as error:
        refused = isinstance(error, UserError) and not isinstance(error, launch.NoAnswer)
        _take_back(output, submitted, refused)
        raise
    plan.write(output)
    return submitted


def done_stages(plan: Plan, stages: list[Stage]) -> set[str]:
    """Names of those that need not run."""
    return by_name(stages).keys() - left_to_do(stages, plan.options).keys()


def submit_and_say(plan: Plan, only: set[str] | None = None) -> int:
    """`submit`, and what the user should know of it; returns the exit code."""
    submitted = submit(plan, only)
    if submitted is None:
        _say_nothing_to_submit(plan)
        return 0
    output = plan.options.output
    for place in OWN_PLACES:
        if output.resolve().is_relative_to(place):
            print(f"warning: --output {output} is in {place}, which on most clusters is each machine's own: the nodes "
                  "must see that folder, or the jobs end at once", file=sys.stderr)
    for record in submitted.records:
        print(f"job {record.job_id}: {record.stage}")
    where = f"--output {shlex.quote(str(output))}"
    print(f"see them: clove status --watch {where}\n"
          f"end them: clove cancel {where}\n"
          f"read one: clove logs STAGE {where}")
    return 0


def _say_nothing_to_submit(plan: Plan) -> None:
    stages = plan.stages()
    done = done_stages(plan, stages)
    if len(done) == len(stages):
        print_tables(plan.options)
        if TABLES in (records := jobs.newest(plan.options.output)):  # their own job may have been cancelled
            jobs.note_tables(records[TABLES].notes, 0, f"all {len(stages)} stages done")
        print(f"nothing to submit: all {len(stages)} stages are done")
        return
    line = f"nothing to submit: {len(done)} of {len(stages)} stages done"
    going = [name for name in under_way(plan, stages) if name != TABLES and name not in done]
    if going:
        line += f"; under way: {', '.join(going)}"
    if len(done) + len(going) < len(stages):  # only some were asked for
        line += "; `clove retry --failed` submits the others"
    print(line)


def _todo(stages: list[Stage], settled: set[str], only: set[str] | None) -> list[str]:
    """Names of the stages to submit; `UserError` for one whose parents would be missing."""
    wanted, todo = set(), []
    for stage in stages:
        if only is None or stage.name in only or not wanted.isdisjoint(stage.needs):
            wanted.add(stage.name)
        if stage.name in wanted - settled:
            todo.append(stage.name)
            absent = [name for name in stage.parents if name not in settled and name not in todo]
            refuse((absent, f"stage {stage.name} needs {', '.join(absent)}, which is not done: name it too, or "
                            "use retry --failed"))
    return todo


def _submit(unit: Unit, plan: Plan, submitted: Submitted, ids: dict[str, str]) -> None:
    """Submit a unit and write it down; adds its job ids to `ids`, {stage: job id}."""
    folder, code = Path(submitted.folder), Path(submitted.code)
    executor, environment = executor_of(unit, plan, folder, code, ids)
    stages = by_name(plan.stages())
    tasks, records = [], []
    for name in unit.stages:
        task = StageJob(name, folder, folder / name, code)
        task.folder.mkdir()
        tasks.append(task)
        planned = "" if name == TABLES else stages[name].planned
        needs = unit.parents or unit.after
        records.append(StageRecord(name, "", planned, needs, str(folder), _key(unit, folder)))
    submitted.records += records
    submitted.write()
    for record, job in zip(records, launch.submit_jobs(executor, tasks, environment), strict=True):
        record.job_id = ids[record.stage] = job.job_id
    submitted.write()


def _key(unit: Unit, folder: Path) -> str:
    """What the job of this unit carries, and no other job."""
    return f"{unit.name}:{folder.name}"


def executor_of(unit: Unit, plan: Plan, folder: Path, code: Path, ids: dict[str, str]) -> tuple:
    """submitit's executor for a unit, and its environment; parents without an id are done."""
    conditions = []
    for word, names in (("afterok", unit.parents), ("afterany", unit.after)):
        waited_for = dict.fromkeys(ids[name] for name in names if name in ids)
        if waited_for:
            conditions.append(f"{word}:{':'.join(waited_for)}")
    key = _key(unit, folder)
    options: dict[str, object] = {"requeue": True, "comment": key, **dict(plan.options.cluster.sbatch)}
    own_comment = options["comment"] != key  # which a site may ask for
    changes: dict[str, object] = {"job_name": key if own_comment else unit.name, "additional_parameters": options}
    if conditions:
        options["kill-on-invalid-dep"] = "yes"
        changes["dependency"] = ",".join(conditions)
    if unit.limit:
        changes["array_parallelism"] = unit.limit
    return launch.slurm_executor(unit.stages, folder, code, resources(unit.kind, plan), **changes)


def resources(kind: str, plan: Plan) -> Resources:
    """What a job of this kind asks for.

    A pretraining has all nodes, with a task for each GPU; a fine-tuning one node and one task,
    which starts a process for each GPU; a probe one GPU; the rest a few CPUs.
    """
    options = plan.options.cluster
    gpus, cpus = options.gpus_per_node, options.cpus_per_task or LOADERS + 1
    one = replace(options, nodes=1, tasks_per_node=1, gpus_per_node=0)
    if kind == "pretrain":
        loaders = 0
        for pretraining in plan.options.pretrainings:
            workers = pretraining.config.runtime.workers
            loaders = max(loaders, LOADERS if workers == "auto" else workers)
        cpus = options.cpus_per_task or loaders + 1
        return Resources(options, cpus, cpus, gpus)
    if kind == "probe":
        return Resources(one, cpus, cpus, min(gpus, 1))
    if kind in ("preflight", "finetune"):
        return Resources(one, cpus * max(gpus, 1), cpus, gpus)
    if options.mem_gb:
        one = replace(one, mem_gb=min(options.mem_gb, SMALL_GB))
    return Resources(one, SMALL_CPUS, SMALL_CPUS)


def _take_back(output: Path, submitted: Submitted, refused: bool) -> None:
    """Leave nothing of a submission that ended half-way, unless it may have handed over a job that
    squeue does not show: then the next command looks for that job.

    `refused`: by sbatch, in so many words.
    """
    uncertain, known = False, submitted.records
    if not jobs.is_complete(known):
        numbers = jobs.numbers_by_key()
        known = jobs.numbered(submitted.records, numbers or {})
        uncertain = numbers is None or not (refused or jobs.is_complete(submitted.records))
    if known:
        jobs.end(known)
        until = time.monotonic() + 30  # one that has begun would write into the folder again
        while not all(state.is_over for state in jobs.ask_all(known).values()) and time.monotonic() < until:
            time.sleep(0.5)
    if uncertain:
        submitted.write()
        return
    shutil.rmtree(submitted.folder, ignore_errors=True)
    if not jobs.submissions(output):
        shutil.rmtree(submitted.code, ignore_errors=True)
        with contextlib.suppress(OSError):  # there is something else in it
            (output / "jobs").rmdir()
