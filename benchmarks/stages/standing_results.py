"""Stages that need not run because results stand for them: committed ones count where backbones and work are gone."""

from collections.abc import Iterable
from pathlib import Path

from benchmarks.options.run_options import Options
from benchmarks.records.probe_results import read_probes
from benchmarks.records.results import read_results
from benchmarks.stages.stage import Progress, Stage, glance

WITH_RESULT = ("finetune", "probe")  # kinds of stages


def standing(stages: list[Stage], options: Options) -> set[str]:
    """Names of the stages whose result is in `options.results`, and of those that nothing else
    needs.

    Not one that --rerun names, nor one that builds on such; nor one whose work was begun anew in
    `options.output`.
    """
    again = _with_children(stages, options.rerun)
    known = _planned_keys(options.results)
    found = {stage.name for stage in stages
             if stage.kind in WITH_RESULT and stage.name not in again and stage.planned in known}
    found -= _begun(stages, found, options.output)
    inner = {name for stage in stages for name in stage.needs}
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


def _with_children(stages: list[Stage], names: Iterable[str]) -> set[str]:
    found = set(names)
    for stage in stages:
        if found & set(stage.parents):
            found.add(stage.name)
    return found


def _begun(stages: list[Stage], names: set[str], output: Path) -> set[str]:
    """Those of `names` that have a folder without a stamp: somebody wants them again."""
    progress, found = Progress(output, glance), set()
    for stage in stages:
        key = progress.key(stage)
        if not progress.look(stage) and key and stage.name in names and stage.folder(output, key).is_dir():
            found.add(stage.name)
    return found


def _planned_keys(results: Path) -> set[str]:
    """What the good files of a results folder were planned as; those of older versions do not say
    and do not count."""
    runs, _ = read_results(results / "runs")
    probes, _ = read_probes(results / "probes")
    return {record["stage"]["planned"] for record in (*runs, *probes) if "planned" in record["stage"]}
