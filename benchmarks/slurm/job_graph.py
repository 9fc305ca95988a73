"""The graph as Slurm jobs: what is not done and not under way is handed over, each job after those it needs.

A job is a stage; the fine-tunings of one method, which ask for the same and wait for the same, are an array, and so are
the preflights. A job starts when its parents ended well (`afterok`); when one cannot any more, Slurm cancels it.
Fine-tunings wait for the end of all preflights, and one whose own has not passed then fails. The last job makes the
tables, however the others ended.
"""

import contextlib
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from benchmarks.options.cluster import ClusterOptions
from benchmarks.slurm import jobs, launch, snapshot
from benchmarks.slurm.jobs import NO_ANSWER, TABLES, StageRecord, Submitted
from benchmarks.slurm.stage_job import StageJob, ancestors
from benchmarks.stages.print_tables import print_tables
from benchmarks.stages.saved_plan import Plan
from benchmarks.stages.stage import Stage, finished, left
from benchmarks.stages.standing_results import standing
from pretrain.common.errors import UserError

SMALL_CPUS, SMALL_GB = 2, 16  # conversion, tables
LOADERS = 4  # detectron2's default number of loader workers of a process


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


def units(stages: list[Stage], todo: list[str], max_jobs: int | None = None) -> list[Unit]:
    """The stages named in `todo` as units, without the tables, in the order of `stages`."""
    made: dict[str, Unit] = {}
    for stage in stages:
        if stage.name not in todo:
            continue
        together = stage.array or stage.name
        unit = made.setdefault(together, Unit(stage.name, [], stage.kind, stage.parents))
        unit.stages.append(stage.name)
        unit.after = tuple(dict.fromkeys(unit.after + stage.gates))
    for together, unit in made.items():
        if len(unit.stages) > 1:  # finetune-METHOD, preflight
            unit.name = together
    return list(made.values()) if max_jobs is None else _limit(list(made.values()), stages, max_jobs)


def _limit(made: list[Unit], stages: list[Stage], max_jobs: int) -> list[Unit]:
    """No more than `max_jobs` at once: each method's chain gets its share, and one that gets none waits for another.
    Returns the units in the order in which they wait for each other.

    Of a chain (pretraining, conversion, fine-tunings, probes) only the fine-tunings are several at once. The demo's
    data come before all chains. Jobs of an earlier submission that still go on are not counted.
    """
    by_name = {stage.name: stage for stage in stages}
    chains: list[list[Unit]] = []
    for last in (unit for unit in made if unit.kind == "finetune"):
        above = {one.name for one in ancestors(by_name[last.stages[0]], by_name)} - {"data"}
        share, more = divmod(max_jobs, sum(unit.kind == "finetune" for unit in made))
        last.limit = max(share + (len(chains) < more), 1)
        chain = [unit for unit in made if above & set(unit.stages)] + [last]
        for probe in (unit for unit in made if unit.kind == "probe" and set(unit.parents) - {"data"} <= above):
            probe.after = tuple(chain[-1].stages)
            chain.append(probe)
        chains.append(chain)
    first = next((unit for unit in made if unit.kind == "preflight"), None)
    if first:
        first.limit = max_jobs
    for number, chain in enumerate(chains):
        before = chains[number - max_jobs][-1] if number >= max_jobs else first
        if before:
            chain[0].after = tuple(dict.fromkeys((*chain[0].after, *before.stages)))
    chained = [unit for chain in chains for unit in chain]
    return [unit for unit in made if not any(unit is one for one in chained)] + chained


def check(plan: Plan) -> None:
    """What would only show when a job has waited for its nodes."""
    from pretrain.data.batches import images_at_once  # imports torch

    options = plan.options
    launch.refuse_path(options.output)
    for one in options.pretrainings:
        images_at_once(one.config.train.batch_size, one.config.runtime.device_batch, options.cluster.processes)


def under_way(plan: Plan, stages: list[Stage]) -> dict[str, StageRecord]:
    """Jobs of earlier submissions that are not over, by stage. Raises `UserError` when that cannot be told, or when one
    of them works on other values than are asked for now."""
    records = jobs.newest(plan.options.output)
    states = jobs.ask([record.job_id for record in records.values()])
    if any(state.word == NO_ANSWER for state in states.values()):
        raise UserError("Slurm does not answer (squeue): whether earlier jobs of this folder go on cannot be told, so "
                        "nothing was submitted")
    wanted = {stage.name: stage.planned for stage in stages}
    alive = {name: record for name, record in records.items() if not states[record.job_id].is_over}
    ending = [record for record in alive.values() if (record.notes / jobs.CANCELLED).is_file()]
    if ending:
        raise UserError(f"job {ending[0].job_id} (stage {ending[0].stage}) was cancelled and has not ended: nothing "
                        "was submitted, try again in a minute")
    for name, record in alive.items():
        if name in wanted and record.identity != wanted[name]:
            raise UserError(f"job {record.job_id} works on stage {name} with other values or inputs: wait for it, end "
                            f"it with `python -m benchmarks cancel {name}`, or choose another --output")
    return alive


def submit(plan: Plan, only: set[str] | None = None) -> Submitted | None:
    """Hand over what is neither done nor under way; None when there is no such stage.

    `only` restricts that to some stages and what depends on them. Raises `UserError` when Slurm refuses a job: then
    none is left, nor a file.
    """
    check(plan)
    output, stages = plan.options.output, plan.stages()
    alive = under_way(plan, stages)
    todo = _todo(stages, done_stages(plan, stages) | alive.keys(), only)
    if not todo:
        return None
    stamp = datetime.now(UTC)
    folder = output / "jobs" / f"{stamp:%Y%m%d-%H%M%S}-{token_hex(2)}"
    code = snapshot.take(launch.ROOT, output / "jobs", launch.code_version())
    submitted = Submitted(str(folder), str(code), stamp.isoformat(timespec="microseconds"))
    folder.mkdir()
    plan.write(folder)
    try:
        ids = {name: record.job_id for name, record in alive.items() if name != TABLES}
        for unit in units(stages, todo, plan.options.max_jobs):
            ids |= _submit(unit, plan, submitted, ids, stages)
        # A second tables job beside one that still waits does no harm: it comes after more.
        _submit(Unit(TABLES, [TABLES], "small", after=tuple(ids)), plan, submitted, ids, stages)
    except BaseException:
        _take_back(output, submitted)
        raise
    plan.write(output)
    return submitted


def done_stages(plan: Plan, stages: list[Stage]) -> set[str]:
    """Names of those that need not run."""
    _, done = finished(stages, plan.options.output)
    return done.keys() | standing(stages, plan.options)


def submit_and_say(plan: Plan, only: set[str] | None = None) -> int:
    """`submit`, and what the user should know of it; returns the exit code."""
    submitted = submit(plan, only)
    if submitted is None:
        stages = plan.stages()
        done = done_stages(plan, stages)
        if len(done) == len(stages):
            print_tables(plan.options)
        print(f"nothing to submit: {len(done)} of {len(stages)} stages done, the others are under way")
        return 0
    for record in submitted.records:
        print(f"job {record.job_id}: {record.stage}")
    where = f" --output {shlex.quote(str(plan.options.output))}"
    print("\n".join(f"{what}: python -m benchmarks {word}{where}" for what, word in (
        ("see them", "status --watch"), ("end them", "cancel"), ("read one", "logs STAGE"))))
    return 0


def _todo(stages: list[Stage], settled: set[str], only: set[str] | None) -> list[str]:
    """Names of the stages to submit. Raises `UserError` for one whose parents would be missing."""
    wanted: set[str] = set()
    for stage in stages:
        if only is None or stage.name in only or wanted & set(stage.needs):
            wanted.add(stage.name)
    todo = [stage.name for stage in stages if stage.name in wanted - settled]
    for stage in stages:
        absent = [name for name in stage.parents if name not in settled and name not in todo]
        if stage.name in todo and absent:
            raise UserError(f"stage {stage.name} needs {', '.join(absent)}, which is not done: name it too, or use "
                            "retry --failed")
    return todo


def _submit(
    unit: Unit, plan: Plan, submitted: Submitted, ids: dict[str, str], stages: list[Stage]
) -> dict[str, str]:
    """Hand a unit over and write it down; returns {stage: job id}."""
    folder, code = Path(submitted.folder), Path(submitted.code)
    executor, environment = executor_of(unit, plan, folder, code, ids)
    tasks = [StageJob(name, folder, folder / name, code) for name in unit.stages]
    for task in tasks:
        task.folder.mkdir()
    made = launch.hand_over(executor, tasks, environment)
    known = {stage.name: stage.planned for stage in stages}
    for name, job in zip(unit.stages, made, strict=True):
        submitted.records.append(
            StageRecord(name, job.job_id, known.get(name, ""), unit.parents or unit.after, str(folder)))
    submitted.write()
    return {name: job.job_id for name, job in zip(unit.stages, made, strict=True)}


def executor_of(unit: Unit, plan: Plan, folder: Path, code: Path, ids: dict[str, str]) -> tuple:
    """submitit's executor for a unit, and its environment; parents without an id are done."""
    options = plan.options.cluster
    conditions = [f"{word}:{':'.join(dict.fromkeys(ids[name] for name in names if name in ids))}"
                  for word, names in (("afterok", unit.parents), ("afterany", unit.after))
                  if any(name in ids for name in names)]
    changes: dict[str, object] = {"additional_parameters": {
        "requeue": True, **dict(options.sbatch), **({"kill-on-invalid-dep": "yes"} if conditions else {})}}
    if conditions:
        changes["dependency"] = ",".join(conditions)
    if unit.limit:
        changes["array_parallelism"] = unit.limit
    asked, cpus, threads, gpus = resources(unit.kind, plan)
    return launch.slurm_executor(unit.name, folder, code, cpus, asked, threads, gpus_per_node=gpus or None, **changes)


def resources(kind: str, plan: Plan) -> tuple[ClusterOptions, int, int, int]:
    """What a job of this kind asks for, CPUs a task, threads of a process, GPUs a node.

    A pretraining has all nodes, with a task for each GPU; a fine-tuning one node and one task, which starts a process
    for each GPU; a probe one GPU; the rest a few CPUs.
    """
    options = plan.options.cluster
    one = replace(options, nodes=1, tasks_per_node=1, gpus_per_node=0)
    if kind == "pretrain":
        cpus = options.cpus_per_task or max(one.config.runtime.workers for one in plan.options.pretrainings) + 1
        return options, cpus, cpus, options.gpus_per_node
    if kind == "probe":
        return one, options.cpus_per_task or LOADERS + 1, options.cpus_per_task or LOADERS + 1, \
            min(options.gpus_per_node, 1)
    if kind in ("preflight", "finetune"):
        cpus = options.cpus_per_task or LOADERS + 1
        return one, cpus * max(options.gpus_per_node, 1), cpus, options.gpus_per_node
    return replace(one, mem_gb=min(options.mem_gb or SMALL_GB, SMALL_GB) if options.mem_gb else None), SMALL_CPUS, \
        SMALL_CPUS, 0


def _take_back(output: Path, submitted: Submitted) -> None:
    """Leave nothing of a submission that was refused half-way."""
    if submitted.records:
        ids = [record.job_id for record in submitted.records]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", *ids], capture_output=True, timeout=60, check=False)
            until = time.monotonic() + 30  # one that has begun would write into the folder again
            while not all(state.is_over for state in jobs.ask(ids).values()) and time.monotonic() < until:
                time.sleep(0.5)
    shutil.rmtree(submitted.folder, ignore_errors=True)
    if not jobs.submissions(output):
        shutil.rmtree(submitted.code, ignore_errors=True)
        with contextlib.suppress(OSError):  # there is something else in it
            (output / "jobs").rmdir()


def print_graph(plan: Plan) -> None:
    """Stages, what each waits for and asks for; the files for sbatch; GPU-hours and disk of what is to do."""
    options, stages = plan.options, plan.stages()
    _, hashes = finished(stages, options.output)
    done = hashes.keys() | standing(stages, options)
    todo = [stage.name for stage in stages if stage.name not in done]
    by_name = {stage.name: left(stage, options.output, hashes) for stage in stages}
    made = units(stages, todo, options.max_jobs)
    made.append(Unit(TABLES, [TABLES], "small", after=tuple(todo)))
    print(f"graph: {len(stages) + 1} stages, {len(done)} done, {len(made)} submissions; work in {options.output}, "
          f"results in {options.results}")
    width = max(len(name) for unit in made for name in (unit.name, *unit.stages))
    for unit in made:
        asked, cpus, _, gpus = resources(unit.kind, plan)
        waits = ", ".join(dict.fromkeys(unit.parents + unit.after)) or "nothing"
        needs = f"after {'all others' if unit.name == TABLES else waits}"
        size = f"array of {len(unit.stages)}" + (f", {unit.limit} at once" if unit.limit else "") \
            if len(unit.stages) > 1 else "job"
        place = (f"{asked.nodes} node{'s' if asked.nodes > 1 else ''} x {asked.tasks} "
                 f"task{'s' if asked.tasks > 1 else ''}, {gpus} GPUs a node, {cpus} CPUs a task")
        print(f"  {unit.name:<{width}} {size}; {needs}; {place}, {asked.minutes} min a start")
        for name in unit.stages:
            if name in by_name:
                print(f"    {name:<{width}} {by_name[name].cost}; {by_name[name].disk_gb:g} GB")
    hours: dict[str, float] = {}
    for name in todo:
        for gpu, value in by_name[name].gpu_hours.items():
            hours[gpu] = hours.get(gpu, 0.0) + value
    words = " and ".join(f"{value:,.0f} {gpu}-hours" for gpu, value in hours.items()) or "not estimated at this size"
    most = sum(by_name[name].disk_gb for name in todo)
    print(f"GPU-hours of what is to do: {words}; disk, with all of it running at once: {most:.1f} GB\n")
    ids = {name: f"ID-OF-{name}" for name in todo}
    for unit in made:
        executor, _ = executor_of(unit, plan, options.output / "jobs" / "TIME", options.output / "jobs" / "code-HASH",
                                  ids)
        print(f"# sbatch file of {unit.name}\n{launch.submission_text(executor, len(unit.stages))}")
