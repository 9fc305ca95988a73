"""`clove run`, and ./run_all.sh with options: plan the stages, run what is not done, print tables and places."""

import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks import clove
from benchmarks.options import arguments
from benchmarks.options.gpus import count_gpus
from benchmarks.options.run_options import Options, parse
from benchmarks.slurm.jobs import refuse_beside_jobs
from benchmarks.stages.checked_inputs import find_inputs
from benchmarks.stages.local_run import STANDS, LocalRun, minutes, set_aside
from benchmarks.stages.print_tables import print_tables
from benchmarks.stages.saved_plan import Plan
from benchmarks.stages.stage import Progress, Stage, by_name, glance, left, locked
from benchmarks.stages.standing_results import left_to_do, standing
from pretrain.common.errors import refuse, run_cli

build_parser = arguments.build_parser  # the options of a run
FIGURES = ("views.png", "curves.png", "show.png", "predictions.png", "probe.png")


def main(given: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; returns the exit code. A command that stands before the
    options is one of `clove`."""
    # detectron2, which checks every --set, still compiles parts with torch.jit.script; nothing that
    # a user could fix.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
    words = list(sys.argv[1:] if given is None else given)
    if words and not words[0].startswith("-"):
        return clove.main(words)
    options = parse(words)
    plan = Plan(options, find_inputs(options))
    stages = plan.stages()
    names = by_name(stages)
    unknown = [name for name in options.rerun if name not in names]
    gpus = count_gpus(options)
    refuse(
        (unknown, f"--rerun {', '.join(unknown)}: no such stage; there are {', '.join(names)}"),
        (options.jobs > 1 and gpus,
         f"--jobs {options.jobs} divides CPU cores, found {gpus} GPUs: add --gpus 0, "
         "or leave out --jobs"),
    )
    for line in options.said:
        print(line)
    if options.cluster.cluster == "slurm":
        return run_on_cluster(plan, stages)
    if options.dry_run:
        return print_plan(options, stages)
    with locked(options.output):
        refuse_beside_jobs(options.output)
        plan.write(options.output)
        return run(options, stages)


def run_on_cluster(plan: Plan, stages: list[Stage]) -> int:
    """Hand all that is to do over to Slurm."""
    from benchmarks.slurm import job_graph, print_graph  # with submitit, which a run on this machine does not need

    options = plan.options
    if options.dry_run:
        print_graph.print_graph(plan)
        return 0
    new = not options.output.exists()
    try:
        with locked(options.output):
            _check_disk(options, stages)
            alive = job_graph.under_way(plan, stages)
            progress = Progress(options.output)
            for stage in stages:
                progress.look(stage)
                key = progress.key(stage)
                if stage.name in options.rerun and stage.name not in alive and key:
                    set_aside(stage.folder(options.output, key))
            return job_graph.submit_and_say(plan)
    finally:
        # Refused: nothing stays.
        if new and options.output.is_dir() and os.listdir(options.output) == [".lock"]:
            shutil.rmtree(options.output)


def print_plan(options: Options, stages: list[Stage]) -> int:
    """Stages, what each needs, what is done already, cost and disk."""
    progress, stands = Progress(options.output), standing(stages, options)
    print(f"plan: {len(stages) + 1} stages, work in {options.output}, results in {options.results}")
    todo: list[Stage] = []
    width = max(len(stage.name) for stage in stages)
    for stage in stages:
        stamp = None if stage.name in options.rerun else progress.look(stage)
        state, rest = STANDS, stage
        if stamp:
            state = f"done ({minutes(stamp['seconds'])})"
        elif stage.name not in stands:
            rest = left(stage, options.output, progress.hashes)
            state = "to do" if rest is stage else "to evaluate"
            todo.append(rest)
        needs = ", ".join(stage.needs) or "nothing before it"
        print(f"  {stage.name:<{width}} {state:<16} needs {needs}; {rest.cost}; "
              f"{rest.disk_gb:g} GB")
    print(f"  {'tables':<{width}} {'always':<16} needs all results; seconds")
    print(f"GPUs: {count_gpus(options)}; disk for what is to do: "
          f"{disk_needed(todo, options.jobs):.1f} GB, free {_free_gb(options.output):.1f} GB")
    core_hours = sum(stage.core_hours for stage in todo)
    if core_hours >= 0.05 and not count_gpus(options):
        print(f"CPU: about {core_hours:.1f} core-hours for what is to do, from what other cores "
              "took (estimate.py)")
    return 0


def run(options: Options, stages: list[Stage]) -> int:
    """Run what is not done; a failing stage stops what depends on it and nothing else."""
    _check_disk(options, stages)
    done = LocalRun(options, stages, standing(stages, options))
    done.run()
    print_summary(done)
    if not done.failures:
        return 0
    failure = done.failures[0]  # the others were reported as they came
    stopped = f"; not run for that reason: {', '.join(done.stopped)}" if done.stopped else ""
    print(f"error: {failure}{stopped}", file=sys.stderr)
    return failure.code


def print_summary(done: LocalRun) -> None:
    """Tables, the time of each stage, where files and figures are."""
    tables = print_tables(done.options)
    print("Time of each stage")
    width = len(max(done.times, key=len, default=""))
    for stage in done.stages:
        if stage.name in done.times:
            print(f"  {stage.name:<{width}} {done.times[stage.name]}")
    print(f"Tables   {tables}\nResults  {done.options.results / 'runs'}\nFigures")
    for folder, figure in product(done.progress.folders.values(), FIGURES):
        if (folder / figure).is_file():
            print(f"  {folder / figure}")


def disk_needed(stages: list[Stage], jobs: int = 1) -> float:
    """GB for stages of which so many run at once: what stays of all, and the most that goes away
    again."""
    passing = sorted((stage.passing_gb for stage in stages), reverse=True)
    return sum(stage.disk_gb for stage in stages) - sum(passing[jobs:])


def _check_disk(options: Options, stages: list[Stage]) -> None:
    needed = disk_needed(list(left_to_do(stages, options, glance).values()), options.jobs)
    free = _free_gb(options.output)
    refuse((needed > free,
            f"{options.output} needs about {needed:.1f} GB more, found {free:.1f} GB free: free "
            "space or choose another --output"))


def _free_gb(folder: Path) -> float:
    above = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(above).free / 1e9


if __name__ == "__main__":
    run_cli(main)
