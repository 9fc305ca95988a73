"""--dry-run of a graph: what would be submitted, what it asks for and costs."""

from collections import Counter

from benchmarks.slurm import job_graph, launch
from benchmarks.slurm.job_graph import Unit
from benchmarks.slurm.jobs import TABLES
from benchmarks.slurm.launch import Resources
from benchmarks.stages.saved_plan import Plan
from benchmarks.stages.standing_results import left_to_do


def print_graph(plan: Plan) -> None:
    """Stages, what each waits for and asks for; the files for sbatch; GPU-hours and disk of what
    is to do."""
    options, stages = plan.options, plan.stages()
    todo = left_to_do(stages, options)
    made = job_graph.units(stages, list(todo), options.max_jobs)
    made.append(Unit(TABLES, [TABLES], "small", after=tuple(todo)))
    print(f"graph: {len(stages) + 1} stages, {len(stages) - len(todo)} done, {len(made)} submissions; work in "
          f"{options.output}, results in {options.results}")
    width = max(len(name) for unit in made for name in (unit.name, *unit.stages))
    for unit in made:
        print(f"  {unit.name:<{width}} {_described(unit, job_graph.resources(unit.kind, plan))}")
        for name in unit.stages:
            if name in todo:
                print(f"    {name:<{width}} {todo[name].cost}; {todo[name].disk_gb:g} GB")
    hours: Counter[str] = Counter()
    most = 0.0  # GB
    for stage in todo.values():
        hours.update(stage.gpu_hours)
        most += stage.disk_gb
    known = " and ".join(f"{value:,.0f} {gpu}-hours" for gpu, value in hours.items())
    print(f"GPU-hours of what is to do: {known or 'not estimated at this size'}; disk, with all of it running at "
          f"once: {most:.1f} GB\n")
    ids = {name: f"ID-OF-{name}" for name in todo}
    place = options.output / "jobs"
    for unit in made:
        executor, _ = job_graph.executor_of(unit, plan, place / "TIME", place / "code-HASH", ids)
        print(f"# sbatch file of {unit.name}\n{launch.submission_text(executor, len(unit.stages))}")


def _described(unit: Unit, asked: Resources) -> str:
    """A unit's size, what it waits for, what it asks for."""
    size, options = "job", asked.options
    if len(unit.stages) > 1:
        limit = f", {unit.limit} at once" if unit.limit else ""
        size = f"array of {len(unit.stages)}{limit}"
    needs = ", ".join(dict.fromkeys(unit.parents + unit.after)) or "nothing"
    if unit.name == TABLES:
        needs = "all others"
    return (f"{size}; after {needs}; nodes: {options.nodes}, tasks per node: {options.tasks}, GPUs per node: "
            f"{asked.gpus}, CPUs per task: {asked.cpus}, {options.minutes} min per start")
