"""Paired bootstrap over images between two models: the only error bar there is with one training each.

  clove compare RUN_A RUN_B --annotations FILE

Both models' predictions (kept by `--keep-predictions`) are matched to the ground truth once, by
pycocotools. Each sample then draws the images anew, with replacement, the same for both models, and
AP is accumulated as pycocotools does. It says how far the evaluation images decide the difference
of these two models, not how far another fine-tuning (about 0.3 AP) or another pretraining would:
those are other models, which a row's mean and deviation are made of.
"""

import argparse
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.records.coco_results import held_as, iou_types, tasks
from benchmarks.records.comparisons import file_name, sentence
from benchmarks.records.imported import SCHEMA
from benchmarks.records.results import write_sealed
from pretrain import PLACE
from pretrain.common.atomic import sha256_file
from pretrain.common.errors import UserError, refuse
from pretrain.common.plain_file import read_plain
from transfer.annotations import plain_coco
from transfer.tasks import TASKS

NAME = "predictions.json.gz"
LARGEST = 2**32  # bytes of it
RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's recall thresholds


@dataclass(frozen=True)
class Detections:
    """All detections of one class in the order of their scores, D of them, matched at T IoU
    thresholds.

    `image` (D,): place of the detection's image. `hit`, `counts` (T, D): whether it is a match, and
    whether it counts at all (what matches a crowd does not). `objects` (N,): ground truth of the
    class in each of the N images.
    """

    image: np.ndarray
    hit: np.ndarray
    counts: np.ndarray
    objects: np.ndarray


def matched(
    annotations: Path, predictions: list[dict], iou_type: str, crowds_as_objects: bool = False
) -> list[Detections]:
    """Match detections (COCO's result format) to the ground truth, one entry a class, by
    pycocotools."""
    refuse((not predictions, "expected detections to compare, found none in one of the models"))
    truth, predictions = plain_coco.read_truth(annotations, predictions, crowds_as_objects)
    with redirect_stdout(io.StringIO()):
        evaluation = plain_coco.evaluation_of(truth, truth.loadRes(predictions), iou_type)
        evaluation.evaluate()
    images, areas = len(evaluation.params.imgIds), len(evaluation.params.areaRng)
    most = evaluation.params.maxDets[-1]
    found = []
    for place in range(len(evaluation.params.catIds)):
        start = place * areas * images  # all sizes come first
        objects = np.zeros(images)
        scores, hits, ignored, image = [], [], [], []
        for number, row in enumerate(evaluation.evalImgs[start:start + images]):
            if row:
                objects[number] = np.count_nonzero(np.asarray(row["gtIgnore"]) == 0)
                scores += row["dtScores"][:most]
                hits.append(row["dtMatches"][:, :most] > 0)
                ignored.append(row["dtIgnore"][:, :most].astype(bool))
                image += [number] * len(row["dtScores"][:most])
        if not hits:
            continue
        # In pycocotools' order, ties included.
        order = np.argsort(-np.asarray(scores), kind="mergesort")
        counts = ~np.concatenate(ignored, axis=1)[:, order]
        hit = np.concatenate(hits, axis=1)[:, order] & counts
        found.append(Detections(np.asarray(image, dtype=int)[order], hit, counts, objects))
    return found


def average_precision(classes: list[Detections], weights: np.ndarray) -> np.ndarray:
    """AP (0 to 1) of S samples; `weights` (S, N): how often each image is in each sample. NaN
    without ground truth.

    As pycocotools' accumulate: precision at 101 recalls, mean over thresholds and over the classes
    that the sample has. Equal to it on images that really stand there several times, but for equal
    scores within an image.
    """
    total, present = np.zeros(len(weights)), np.zeros(len(weights))
    for one in classes:
        objects = weights @ one.objects
        has = objects > 0
        present += has
        if not len(one.image):
            continue
        drawn = weights[:, one.image]
        for hit, counts in zip(one.hit, one.counts, strict=True):
            true = np.cumsum(drawn * hit, axis=1)
            seen = np.cumsum(drawn * counts, axis=1)
            precision = true / np.maximum(seen, np.spacing(1))
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            for sample in np.flatnonzero(has):
                places = np.searchsorted(true[sample] / objects[sample], RECALLS, side="left")
                inside = places < len(one.image)
                total[sample] += envelope[sample, places[inside]].sum() / len(RECALLS) / len(one.hit)
    return np.divide(total, present, out=np.full(len(weights), np.nan), where=present > 0)


def samples(images: int, number: int, seed: int, batch: int = 50) -> Iterator[np.ndarray]:
    """Weights (up to `batch`, N) of `number` bootstrap samples of N images."""
    generator = np.random.default_rng(seed)
    for start in range(0, number, batch):
        size = min(batch, number - start)
        yield generator.multinomial(images, np.full(images, 1 / images), size=size).astype(float)


def build_parser() -> argparse.ArgumentParser:
    """The options of `clove compare`."""
    parser = argparse.ArgumentParser(
        prog="clove compare", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__)
    parser.add_argument("run", nargs=2, type=Path, metavar="RUN",
                        help=f"folder of a fine-tuning or evaluation that kept its predictions, or its {NAME}")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="COCO's ground truth of val")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default 0)")
    parser.add_argument("--results", type=Path, default=PLACE / "results", metavar="DIR",
                        help="for comparisons/, and the tables made of it (default: the project's)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Compare, print and write the outcome; returns the exit code."""
    options = build_parser().parse_args(arguments)
    refuse(
        (options.samples < 100, f"--samples {options.samples}: expected at least 100, an interval needs its tails"),
        (options.seed < 0, f"--seed {options.seed}: expected a number from 0"),
        (not options.annotations.is_file(), f"--annotations {options.annotations}: file not found"))
    one, other = _read(options.run[0], options.annotations), _read(options.run[1], options.annotations)
    refuse(
        (one["task"] != other["task"],
         f"expected two runs of the same task, found {one['task']} and {other['task']}"),
        (one["annotations_sha256"] != other["annotations_sha256"],
         "expected two runs on the same objects, found --crowds-as-objects in one of them"))
    outcome = compare(one, other, options.annotations, options.samples, options.seed)
    record = {"schema": SCHEMA, "kind": "bootstrap", "task": one["task"], "names": [one["name"], other["name"]],
              "predictions_sha256": [one["sha256"], other["sha256"]], "annotations_sha256": one["annotations_sha256"],
              "samples": options.samples, "seed": options.seed, "outcome": outcome,
              "made": datetime.now(UTC).isoformat(timespec="seconds")}
    print(sentence(record))
    print(f"wrote {write_sealed(options.results / 'comparisons', record, [], file_name)}")
    return 0


def compare(
    one: dict, other: dict, annotations: Path, number: int, seed: int
) -> dict[str, dict[str, float]]:
    """{metric: difference, its 95 % interval, and the share of samples in which the first is
    better}, in percent.

    Of each IoU type of the task that both models' predictions hold: those on data without masks
    have none.
    """
    from tqdm import tqdm

    outcome = {}
    # Before any is matched: pycocotools makes up masks from boxes, in the predictions that it is handed. No
    # predictions at all are refused where they are matched.
    firsts = [predictions[0] for predictions in (one["predictions"], other["predictions"]) if predictions]
    held = [iou_type for iou_type in iou_types(TASKS[one["task"]])
            if all(held_as(iou_type) in first for first in firsts)]
    for iou_type in held:
        metric = f"{iou_type}/AP"
        first = matched(annotations, one["predictions"], iou_type, one["crowds_as_objects"])
        second = matched(annotations, other["predictions"], iou_type, other["crowds_as_objects"])
        images, drawn = len(first[0].objects), []
        once = np.ones((1, images))  # every image, as it is
        first_ap, second_ap = float(average_precision(first, once)[0]), float(average_precision(second, once)[0])
        with tqdm(total=number, desc=metric, unit="sample") as bar:
            for weights in samples(images, number, seed):
                drawn.append(average_precision(first, weights) - average_precision(second, weights))
                bar.update(len(weights))
        differences = 100 * np.concatenate(drawn)
        differences = differences[~np.isnan(differences)]
        low, high = np.percentile(differences, [2.5, 97.5])
        outcome[metric] = {"first": 100 * first_ap, "second": 100 * second_ap,
                           "difference": 100 * (first_ap - second_ap), "low": float(low), "high": float(high),
                           "better": float(np.mean(differences > 0))}
    return outcome


def _read(path: Path, annotations: Path) -> dict:
    """Kept predictions with their hash, the name of their row and whether crowds were objects to
    them. UserError for anything else."""
    file = path / NAME if path.is_dir() else path
    try:
        content = json.loads(gzip.decompress(read_plain(file, LARGEST)))
        task, predictions = content["task"], content["predictions"]
        annotations_sha256 = content["annotations_sha256"]
    except FileNotFoundError:
        raise UserError(f"{file}: file not found; run the fine-tuning or evaluation with --keep-predictions") from None
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: expected kept predictions, found none ({error}); evaluate again with "
                        "--keep-predictions") from None
    # Without and with crowds as objects.
    hashes = [plain_coco.sha256(annotations, False), plain_coco.sha256(annotations, True)]
    refuse(
        (task not in list(tasks()), f"{file}: expected one of the tasks {', '.join(tasks())}, found {task}"),
        (annotations_sha256 not in hashes,
         f"{file}: expected predictions for annotations {hashes[0][:12]}, found some for "
         f"{str(annotations_sha256)[:12]}; pass the validation annotations of that run"))
    return {"task": task, "annotations_sha256": annotations_sha256, "predictions": predictions,
            "crowds_as_objects": annotations_sha256 == hashes[1], "sha256": sha256_file(file), "name": _name(file)}


def _name(file: Path) -> str:
    """What a run's result calls it: its row, and where it was pretrained here which pretraining and
    trial it is."""
    try:
        result = json.loads((file.parent / "result.json").read_text(encoding="utf-8"))
        weights = result["weights"]
        name, pretraining = weights["method"], weights.get("pretraining")
        if weights.get("epochs") is not None:
            name += f" {weights['epochs']}"
        if pretraining:
            name += f" (pretraining {pretraining['seed']}, trial {result['trial']})"
        return name
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return file.parent.name
