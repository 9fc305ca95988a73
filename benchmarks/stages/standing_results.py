"""Stages that need not run because results stand for them: committed ones count where backbones and work are gone."""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.options.run_options import Options
from benchmarks.records.probe_results import read_probes
from benchmarks.records.results import read_results
from benchmarks.stages.stage import MODEL, STAMP, Stage, finished, glance, planned_trainings

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
    folders, hashes = finished(stages, output, glance)
    found = set()
    for stage in stages:
        if stage.name not in names or stage.name in folders or not set(stage.parents) <= hashes.keys():
            continue
        if stage.folder(output, stage.key(hashes)).is_dir():
            found.add(stage.name)
    return found


def trained_before(stages: list[Stage], missing: list[Stage], options: Options) -> dict[str, Path]:
    """{stage: folder} of those `missing` fine-tunings whose finished training lies in the output
    folder.

    Their parents are not done, so that the folder's name is not known. It is found by its result,
    which was evaluated on something else.
    """
    trained, known = planned_trainings(stages), _planned_keys(options.results)
    found = {}
    for stage in missing:
        for model in options.output.glob(f"{stage.name}-????????/{MODEL}"):
            with contextlib.suppress(OSError, ValueError):
                evaluation = json.loads((model.parent / STAMP).read_text(encoding="utf-8")).get("evaluation", {})
                if replace(stage, evaluation=evaluation).result_key(trained[stage.name]) in known:
                    found[stage.name] = model.parent
    return found


def _planned_keys(results: Path) -> set[str]:
    """What the good files of a results folder were planned as; those of older versions do not say
    and do not count."""
    runs, _ = read_results(results / "runs")
    probes, _ = read_probes(results / "probes")
    return {record["stage"]["planned"] for record in (*runs, *probes) if "planned" in record["stage"]}
