"""plan.json: what was asked for and found, whole, so that a job or a later command makes the same stages from it."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.cluster import ClusterOptions
from benchmarks.inputs import Photos, TaskData
from benchmarks.options import Options
from benchmarks.stage import Stage
from benchmarks.suite import Inputs, build
from pretrain.atomic import write_text
from pretrain.config import Config, load_config
from pretrain.errors import UserError

PLAN = "plan.json"
PATHS = ("photos", "imagenet", "output", "results")


@dataclass(frozen=True)
class Plan:
    """Resolved options, and the inputs as they were when these were planned."""

    options: Options
    inputs: Inputs

    def stages(self) -> list[Stage]:
        """The same stages each time, whatever happened to files meanwhile."""
        return build(self.options, self.inputs)

    def write(self, folder: Path) -> Path:
        """FOLDER/plan.json."""
        write_text(folder / PLAN, json.dumps(asdict(self), indent=1, default=str) + "\n")
        return folder / PLAN


def read_plan(folder: Path) -> Plan:
    """The plan in FOLDER. Raises `UserError` where there is none that this version can read."""
    path = folder / PLAN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Plan(_options(content["options"]), _inputs(content["inputs"]))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"found no {PLAN} in {folder}: expected a folder that ./run_all.sh worked in; name it with "
                        "--output DIR") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not what this version writes ({type(error).__name__}: {error}); start "
                        "./run_all.sh again with the same words") from None


def plan_of(output: Path) -> Plan:
    """The plan of the run that works in `output`. Raises `UserError`, also for a folder that was moved or copied: what
    is written in it names the old place."""
    plan = read_plan(output)
    if not plan.options.output.exists() or not plan.options.output.samefile(output):
        raise UserError(f"{output} was moved or copied: its {PLAN} is that of a run in {plan.options.output}; move it "
                        f"back, or start ./run_all.sh with the same words and --output {output}")
    return plan


def _options(values: dict[str, Any]) -> Options:
    known = {one.name for one in fields(Options)}
    if values.keys() != known:
        raise KeyError(f"options {', '.join(sorted(values.keys() ^ known))}")
    config = values["pretrain"]
    cluster = values["cluster"] | {"sbatch": tuple((name, value) for name, value in values["cluster"]["sbatch"]),
                                   "setup": tuple(values["cluster"]["setup"])}
    return Options(**values | {
        **{name: tuple(values[name]) for name in ("tasks", "methods", "rerun", "said")},
        **{name: Path(values[name]) if values[name] is not None else None for name in PATHS},
        "checkpoints": {name: Path(path) for name, path in values["checkpoints"].items()},
        "data": {task: Path(path) if path is not None else None for task, path in values["data"].items()},
        "pretrain": config and _pretraining(config),
        "cluster": ClusterOptions(**cluster)})


def _inputs(values: dict[str, Any]) -> Inputs:
    photos = values["photos"]
    return Inputs(photos and Photos(**photos | {"folder": Path(photos["folder"])}),
                  {task: TaskData(**data | {"folder": Path(data["folder"])}) for task, data in values["data"].items()},
                  values["checkpoints"])


def _pretraining(config: dict[str, Any]) -> Config:
    values = {"objective": config["objective_name"], **config["train"], **config["objective"], **config["runtime"]}
    return load_config(None, values)
