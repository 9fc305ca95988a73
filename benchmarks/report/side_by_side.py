"""The same image several times: its ground truth, and what each model found of it, by hit, false alarm and miss.

Read from the examples.json of each fine-tuning (`transfer/finetuning/examples.py`). Of every model
as many detections count as the image has objects, the surest ones: so models that are differently
sure of themselves can be compared. A detection is a hit if its box covers an object of its class
with an IoU of 0.5 or more; each object is hit once.
"""

from collections import Counter, defaultdict

from benchmarks.report.stages import StageFolder, read_json
from pretrain.common.fields import is_number, is_whole
from transfer.settings.random_starts import RAND

NAME = "examples.json"
HIT, FALSE, MISS, TRUTH = "hit", "false alarm", "miss", "ground truth"
NUMBERS = {HIT: ("hit", "hits"), FALSE: ("false alarm", "false alarms"), MISS: ("miss", "misses"),
           TRUTH: ("object", "objects")}
OVERLAP = 0.5
MOST_IMAGES, MOST_MODELS = 3, 4  # of a dataset; of an image


def comparisons(stages: list[StageFolder], problems: list[str]) -> list[dict]:
    """The images that models of one dataset have in common, each with its columns, the random
    starts first."""
    # Dataset and image -> what was fine-tuned -> its example.
    found: dict[tuple, dict[str, dict]] = defaultdict(dict)
    for stage in stages:
        if not stage.has(NAME):
            continue
        try:
            content = read_json(stage.folder / NAME)
            for image in content["images"]:
                start, place = stage.parts
                key = (content["annotations_sha256"], place or content["task"], image["file"])
                found[key].setdefault(start, checked(image))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            problems.append(f"{NAME} of {stage.name}: {type(error).__name__}: {reason}")
    shown, counts = [], Counter()
    for (_, dataset, file), models in found.items():
        if len(models) < 2 or counts[dataset] == MOST_IMAGES:
            continue
        counts[dataset] += 1
        first = next(iter(models.values()))
        pictures = [_column(TRUTH, _boxes(first["truth"], TRUTH), TRUTH)]
        # Random first.
        names = sorted(models, key=lambda name: (not name.startswith(RAND.method), name))
        for name in names[:MOST_MODELS]:
            boxes = judged(models[name]["truth"], models[name]["predicted"])
            pictures.append(_column(name, boxes, HIT, FALSE, MISS))
        shown.append({**first, "dataset": dataset, "file": file, "pictures": pictures})
    return shown


def _column(title: str, boxes: list[dict], *kinds: str) -> dict:
    """The image once, and how many boxes there are of each kind."""
    counts = []
    for kind in kinds:
        count = sum(box["kind"] == kind for box in boxes)
        counts.append(f"{count} {NUMBERS[kind][count != 1]}")
    return {"title": title, "boxes": boxes, "counts": ", ".join(counts)}


def checked(image: dict) -> dict:
    """The example itself; ValueError for one that cannot be drawn."""
    good = (is_whole(image["width"], 1) and is_whole(image["height"], 1) and isinstance(image["file"], str)
            and isinstance(image["pixels"], str) and image["pixels"].startswith("data:image/"))
    for box in image["truth"] + image["predicted"]:
        good = good and len(box["box"]) == 4 and isinstance(box["class"], str)
        good = good and all(is_number(value, -1e6, 1e6) for value in box["box"])
    for box in image["predicted"]:
        good = good and is_number(box["score"], 0, 1)
    if not good:
        raise ValueError("expected boxes of four numbers with their class, found something else")
    return image


def judged(truth: list[dict], predicted: list[dict]) -> list[dict]:
    """The surest detections, as many as there are objects, and the objects that none of them
    found."""
    surest = sorted(predicted, key=lambda one: -one["score"])[:len(truth)]
    missed, boxes = list(truth), []
    for detection in surest:
        fitting = [one for one in missed
                   if one["class"] == detection["class"] and overlap(one["box"], detection["box"]) >= OVERLAP]
        kind = FALSE
        if fitting:
            kind = HIT
            missed.remove(max(fitting, key=lambda one: overlap(one["box"], detection["box"])))
        boxes += _boxes([detection], kind)
    return boxes + _boxes(missed, MISS)


def overlap(one: list[float], other: list[float]) -> float:
    """Intersection over union of two boxes, each x0 y0 x1 y1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1])
    return width * height / (both - width * height)


def _boxes(entries: list[dict], kind: str) -> list[dict]:
    """Boxes in pixels of the image, with what they are and what is written beside them."""
    found = []
    for entry in entries:
        (x0, y0, x1, y1), text = entry["box"], entry["class"]
        if "score" in entry:
            text += f" {100 * entry['score']:.0f} %"
        found.append({"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "kind": kind, "text": text})
    return found
