"""What the stages of a run left in their folders: curves of trainings, figures. One that cannot be read is named."""

import base64
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.records.paper_tables import main_columns
from benchmarks.report.charts import Chart, Points, looks, thinned
from pretrain.common.fields import is_number
from pretrain.common.json_lines import each_entry
from pretrain.common.plain_file import read_plain
from transfer.tasks import TASKS

# What a stage's folder may hold, in the order shown, with its caption.
FIGURES = {
    "curves.png": "curves of the pretraining",
    "views.png": "views of an image and their matched cells",
    "show.png": "views, positive cells, hardest negatives, attention",
    "probe.png": "what the frozen backbone's probe predicts",
    "predictions.png": "ground truth and predictions",
}
PRETRAINING = {"loss": "loss", "retrieval_backbone": "retrieval: share found", "knn_top1": "k-NN: share right",
               "feature_std_backbone": "feature standard deviation (0: collapse)",
               "effective_rank_backbone": "effective rank (1: collapse)", "lr": "learning rate"}
WIDEST = 1200  # pixels: images are shrunk to this
MOST_RUNS = 60  # whose curves are drawn, of a section: the ones that ended last
MOST_BYTES = 1_500_000  # of all figures of the page
MOST_ENTRIES = 2_000_000  # bytes of request.json and the like


@dataclass(frozen=True)
class StageFolder:
    """A finished stage."""

    name: str
    folder: Path

    @property
    def parts(self) -> tuple[str, str]:
        """(what it starts from or makes, without the seed; on which data), such as ("clove",
        "coco.nuclei")."""
        found = re.fullmatch(r"finetune-(.+)-([^-]+)-\d+", self.name)
        name, place = self.name.partition("-")[2] or self.name, ""
        if found:
            name, place = found.groups()
        return re.sub(r"\.seed\d+", "", name), place

    def has(self, *names: str) -> bool:
        """Whether it holds these as plain files."""
        return all((self.folder / name).is_file() for name in names)


def stage_folders(output: Path) -> list[StageFolder]:
    """Every finished stage in `output`, in the order in which they ended."""
    stamps = []
    for path in output.glob("*/stage.json"):
        # A stage that is just being written has nothing yet.
        with suppress(OSError, ValueError, KeyError, TypeError):
            stamp = read_json(path)
            stage = StageFolder(str(stamp["name"]), path.parent)
            stamps.append((str(stamp["ended"]), stage.name, path.parent, stage))
    return [stage for *_, stage in sorted(stamps)]


def read_json(path: Path) -> dict:
    """The object in a plain file of sane length; ValueError or OSError for anything else."""
    content = json.loads(read_plain(path, MOST_ENTRIES))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no mapping")
    return content


def pretrainings(stages: list[StageFolder], problems: list[str]) -> list[dict]:
    """The curves of all pretrainings, one over the other: losses of each objective, the probes of
    all."""
    found = [stage for stage in stages if stage.has("metrics.jsonl", "run.json")]
    charts: dict[str, Chart] = {}
    for stage in found[-MOST_RUNS:]:
        with _noting(stage, problems):
            objective = read_json(stage.folder / "run.json").get("objective")
            for key, points in read_curves(stage.folder / "metrics.jsonl", "step", PRETRAINING).items():
                title = PRETRAINING[key]
                if key == "loss":
                    title += f" of {objective}"
                chart = charts.setdefault(title, Chart(title, "optimizer step"))
                chart.curves.append({"label": stage.name, "group": stage.parts[0], "points": points})
    losses_first = sorted(charts.values(), key=lambda chart: not chart.title.startswith("loss"))
    return _sections("", losses_first, found, stages)


def finetunings(stages: list[StageFolder], problems: list[str]) -> list[dict]:
    """For each dataset the losses of its fine-tunings, and their metrics on the way where some were
    taken."""
    members: dict[tuple[str, str], list[StageFolder]] = defaultdict(list)
    for stage in stages:
        if stage.has("metrics.json", "request.json"):
            with _noting(stage, problems):
                task = str(read_json(stage.folder / "request.json").get("task"))
                members[task, stage.parts[1] or task].append(stage)
    sections = []
    for (task, place), found in sorted(members.items()):
        charts = {"total_loss": Chart("training loss", "iteration")}
        if task in TASKS:
            for column in TASKS[task].columns:
                if column.name in main_columns(TASKS[task]):
                    title = f"{column.name.replace('_', ' ')} on the way (percent)"
                    charts[f"early/{column.metric}"] = Chart(title, "iteration")
        for stage in found[-MOST_RUNS:]:
            with _noting(stage, problems):
                for key, points in read_curves(stage.folder / "metrics.json", "iteration", charts).items():
                    charts[key].curves.append({"label": stage.name, "group": stage.parts[0], "points": points})
        sections += _sections(place, [chart for chart in charts.values() if chart.curves], found, stages)
    return sections


def _sections(
    title: str, charts: list[Chart], found: list[StageFolder], stages: list[StageFolder]
) -> list[dict]:
    """Charts that share a legend, if there are some; `more`: runs that are not drawn."""
    if not charts:
        return []
    pretrained_first = sorted(stages, key=lambda stage: stage.name.startswith("finetune-"))
    order = list(dict.fromkeys(stage.parts[0] for stage in pretrained_first))
    look_of = looks([stage.parts[0] for stage in found[-MOST_RUNS:]], order)
    return [{"title": title, "charts": charts, "looks": look_of, "more": max(len(found) - MOST_RUNS, 0)}]


def read_curves(path: Path, across: str, keys: Iterable[str]) -> dict[str, Points]:
    """The points of each of `keys` that a log has, over its counter `across`."""
    found: dict[str, Points] = defaultdict(list)
    for entry in each_entry(path):
        for key in keys:
            if is_number(entry.get(across), 0) and is_number(entry.get(key), -1e30, 1e30):
                found[key].append((float(entry[across]), float(entry[key])))
    return {key: thinned(found[key]) for key in keys if key in found}


def figures(stages: list[StageFolder], problems: list[str]) -> list[dict]:
    """The figures of the stages: the first of each group whole, as a data address, while there is
    room; the others by name."""
    found, seen, size = [], set(), 0
    for stage in stages:
        for file, caption in FIGURES.items():
            if not stage.has(file):
                continue
            path, data = stage.folder / file, ""
            with _noting(stage, problems, file):
                if (stage.parts, file) not in seen and size < MOST_BYTES:
                    seen.add((stage.parts, file))
                    data = embedded(path)
                    size += len(data)
                found.append({"caption": f"{stage.name}: {caption}", "path": path, "data": data})
    return found


def embedded(path: Path) -> str:
    """An image as a data address, no wider than WIDEST; WebP is a third of the PNG."""
    from PIL import Image

    with Image.open(path) as stored:
        image = stored.convert("RGB")
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


@contextmanager
def _noting(stage: StageFolder, problems: list[str], file: str = "the curves") -> Iterator[None]:
    """Where a file of the stage cannot be read inside, a line in `problems` says why."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, RecursionError) as error:  # SyntaxError: of PIL
        reason = str(error).replace(f"{stage.folder}/", "")
        if isinstance(error, OSError) and error.strerror:
            reason = f"{Path(error.filename or '').name}: {error.strerror}"
        problems.append(f"{file} of {stage.name}: {type(error).__name__}: {reason}")
