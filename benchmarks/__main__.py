"""`python -m benchmarks`, behind ./run_all.sh: plan the stages, run what is not done, print tables and places."""

import shutil
import sys
import warnings
from importlib import import_module
from pathlib import Path

from benchmarks.options.gpus import count_gpus
from benchmarks.options.run_options import Options, parse
from benchmarks.slurm.jobs import refuse_beside_jobs
from benchmarks.stages.checked_inputs import find_inputs
from benchmarks.stages.local_run import STANDS, LocalRun, Progress, minutes, set_aside
from benchmarks.stages.print_tables import print_tables
from benchmarks.stages.saved_plan import Plan
from benchmarks.stages.stage import Stage, finished, glance, left, locked
from benchmarks.stages.standing_results import standing, trained_before
from pretrain.common.errors import UserError, run_cli

COMMANDS = {"report": "sharing.report", "bundle": "sharing.bundle", "import": "sharing.import_results",
            "bootstrap": "statistics.bootstrap", "status": "slurm.status", "cancel": "slurm.cancel",
            "retry": "slurm.retry", "logs": "slurm.logs"}  # command -> module with its own parser
PICTURES = ("views.png", "curves.png", "show.png", "predictions.png", "probe.png")


def main() -> int:
    # detectron2, which checks every --set, still compiles parts with torch.jit.script; nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
    words = sys.argv[1:]
    if words and words[0] in COMMANDS:
        return import_module(f"benchmarks.{COMMANDS[words[0]]}").main(words[1:])
    options = parse(words)
    planned = Plan(options, find_inputs(options))
    stages = planned.stages()
    for name in options.rerun:
        if name not in [stage.name for stage in stages]:
            raise UserError(f"--rerun {name}: no such stage; there are {', '.join(stage.name for stage in stages)}")
    if options.jobs > 1 and count_gpus(options):
        raise UserError(f"--jobs {options.jobs} divides CPU cores, found {count_gpus(options)} GPUs: add --gpus 0, or "
                        "leave it out")
    for line in options.said:
        print(line)
    if options.cluster.cluster == "slurm":
        return run_on_cluster(planned, stages)
    if options.dry_run:
        return print_plan(options, stages)
    with locked(options.output):
        refuse_beside_jobs(options.output)
        planned.write(options.output)
        return run(options, stages)


def run_on_cluster(planned: Plan, stages: list[Stage]) -> int:
    """Hand all that is to do over to Slurm."""
    from benchmarks.slurm import job_graph  # with submitit, which a run on this machine does not need

    options = planned.options
    if options.dry_run:
        job_graph.print_graph(planned)
        return 0
    new = not options.output.exists()
    try:
        with locked(options.output):
            _check_disk(options, stages, standing(stages, options))
            alive = job_graph.under_way(planned, stages)
            _, hashes = finished(stages, options.output)
            for stage in stages:
                if stage.name in options.rerun and stage.name not in alive and set(stage.parents) <= hashes.keys():
                    set_aside(stage.folder(options.output, stage.key(hashes)))
            return job_graph.submit_and_say(planned)
    finally:
        # Refused: nothing stays.
        if new and options.output.is_dir() and [path.name for path in options.output.iterdir()] == [".lock"]:
            shutil.rmtree(options.output)


def print_plan(options: Options, stages: list[Stage]) -> int:
    """Stages, what each needs, what is done already, cost and disk."""
    progress, stands = Progress(options.output), standing(stages, options)
    print(f"plan: {len(stages) + 1} stages, work in {options.output}, results in {options.results}")
    todo, width = [], max(len(stage.name) for stage in stages)
    for stage in stages:
        stamp = None if stage.name in options.rerun else progress.look(stage)
        if stamp:
            state = f"done ({minutes(stamp['seconds'])})"
        elif stage.name in stands:
            state = STANDS
        else:
            whole, stage = stage, left(stage, options.output, progress.hashes)
            state = "to do" if stage is whole else "to evaluate"
            todo.append(stage)
        needs = f"needs {', '.join(stage.needs)}" if stage.needs else "needs nothing before it"
        print(f"  {stage.name:<{width}} {state:<16} {needs}; {stage.cost}; {stage.disk_gb:g} GB")
    print(f"  {'tables':<{width}} {'always':<16} needs all results; seconds")
    print(f"GPUs: {count_gpus(options)}; disk for what is to do: {disk_needed(todo, options.jobs):.1f} GB, "
          f"free {_free_gb(options.output):.1f} GB")
    core_hours = sum(stage.core_hours for stage in todo)
    if core_hours >= 0.05 and not count_gpus(options):
        print(f"CPU: about {core_hours:.1f} core-hours for what is to do, from what other cores took (estimate.py)")
    missing = [stage for stage in todo if not set(stage.parents) <= progress.hashes.keys()]
    for name, folder in trained_before(stages, missing, options).items():
        print(f"{folder} is the finished training of {name}, but what it started from is gone and is made again first: "
              f"bring that folder back, or evaluate it alone: python -m transfer evaluate {folder}")
    return 0


def run(options: Options, stages: list[Stage]) -> int:
    """Run what is not done; a failing stage stops what depends on it and nothing else."""
    stands = standing(stages, options)
    _check_disk(options, stages, stands)
    done = LocalRun(options, stages, stands)
    done.run()
    print_summary(options, done.progress, [(stage.name, done.times[stage.name]) for stage in stages
                                           if stage.name in done.times])
    failures = done.failures
    if failures:
        skipped = f"; not run for that reason: {', '.join(done.stopped)}" if done.stopped else ""
        print(f"error: {failures[0]}" + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else "") + skipped,
              file=sys.stderr)
        return failures[0].code
    return 0


def print_summary(options: Options, progress: Progress, times: list[tuple[str, str]]) -> None:
    """Tables, the time of each stage, where files and pictures are."""
    tables = print_tables(options)
    print("Time of each stage")
    width = max((len(name) for name, _ in times), default=0)
    for name, time in times:
        print(f"  {name:<{width}} {time}")
    print(f"Tables   {tables}\nResults  {options.results / 'runs'}\nPictures")
    for folder in progress.folders.values():
        for picture in PICTURES:
            if (folder / picture).is_file():
                print(f"  {folder / picture}")


def disk_needed(stages: list[Stage], jobs: int = 1) -> float:
    """GB for stages of which so many run at once: what stays of all, and the most that goes away again."""
    stays = {stage.name: stage.disk_gb if stage.stays_gb is None else stage.stays_gb for stage in stages}
    passing = sorted((stage.disk_gb - stays[stage.name] for stage in stages), reverse=True)
    return sum(stays.values()) + sum(passing[:jobs])


def _check_disk(options: Options, stages: list[Stage], stands: set[str]) -> None:
    folders, hashes = finished(stages, options.output, glance)
    needed = disk_needed([left(stage, options.output, hashes) for stage in stages
                          if stage.name not in folders and stage.name not in stands], options.jobs)
    free = _free_gb(options.output)
    if needed > free:
        raise UserError(f"{options.output} needs about {needed:.1f} GB more, found {free:.1f} GB free: free space or "
                        "choose another --output")


def _free_gb(folder: Path) -> float:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free / 1e9


if __name__ == "__main__":
    run_cli(main)
