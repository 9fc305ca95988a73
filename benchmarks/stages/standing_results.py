"""Stages that need not run because results stand for them: committed ones count where backbones and work are gone."""

from benchmarks.options.run_options import Options
from benchmarks.records.probe_results import read_probes
from benchmarks.records.results import read_results
from benchmarks.stages.stage import Progress, Reader, Stage, finished, glance, left, read_stamp

WITH_RESULT = ("finetune", "probe")  # kinds of stages


def standing(stages: list[Stage], options: Options) -> set[str]:
    """Names of the stages whose result is in `options.results`, and of those that nothing else
    needs.

    Not one that --rerun names, nor one that builds on such; nor one whose work was begun anew in
    `options.output`.
    """
    runs, _ = read_results(options.results / "runs")
    probes, _ = read_probes(options.results / "probes")
    # Those of older versions do not say what they were planned as, and do not count.
    planned = {record["stage"].get("planned") for record in (*runs, *probes)}
    again, found, inner = set(options.rerun), set(), set()
    progress = Progress(options.output, glance)
    for stage in stages:  # parents come before their children
        inner |= set(stage.needs)
        if not again.isdisjoint(stage.parents):
            again.add(stage.name)
        key = progress.key(stage)
        # A folder without a stamp: somebody wants it again.
        begun = not progress.look(stage) and key and stage.folder(options.output, key).is_dir()
        if stage.kind in WITH_RESULT and stage.planned in planned and stage.name not in again and not begun:
            found.add(stage.name)
    needed: set[str] = set()
    for stage in reversed(stages):
        stands = stage.name in found
        if stage.kind not in WITH_RESULT and stage.name not in again:
            stands = stage.name in inner - needed
        if stands:
            found.add(stage.name)
        else:
            needed |= set(stage.needs)
    return found


def left_to_do(stages: list[Stage], options: Options, read: Reader = read_stamp) -> dict[str, Stage]:
    """The stages that are neither done nor stand, by name; of a training that only lacks its evaluation, that."""
    folders, hashes = finished(stages, options.output, read)
    over = folders.keys() | standing(stages, options)
    found: dict[str, Stage] = {}
    for stage in stages:
        if stage.name not in over:
            found[stage.name] = left(stage, options.output, hashes)
    return found
