"""plan.json: what was asked for and found, whole, so that a job or a later command makes the same stages from it."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.options.cluster import ClusterOptions
from benchmarks.options.evaluations import Protocol
from benchmarks.options.inputs import DataFolder, Photos, TaskData
from benchmarks.options.pretrainings import Pretraining
from benchmarks.options.run_options import Options
from benchmarks.stages.checked_inputs import Inputs
from benchmarks.stages.stage import Stage
from benchmarks.stages.suite import build
from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError
from pretrain.config import Config, load_config
from transfer.tasks import TASKS, VARIABLE

PLAN = "plan.json"
PATHS = ("photos", "imagenet", "output", "results")
CLASSES = (Options, ClusterOptions, DataFolder, Pretraining, Config, Inputs, Photos, TaskData, Protocol)
AGAIN = "start ./run_all.sh again with the same options"


class UnreadablePlan(UserError):
    """There is a plan, and this version cannot make stages of it."""


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
        content = json.loads(json.dumps(asdict(self), default=str))
        content |= {"version": _version(), "sha256": _digest(content)}
        write_text(folder / PLAN, json.dumps(content, indent=1) + "\n")
        return folder / PLAN


def _version() -> str:
    """Changes by itself when a plan has other fields: what an older version wrote is not guessed at."""
    shape = [[one.__name__, [[field.name, str(field.type)] for field in fields(one)]] for one in CLASSES]
    return hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:16]


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps({name: content[name] for name in ("options", "inputs")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_plan(folder: Path) -> Plan:
    """The plan in FOLDER. Raises `UserError` where there is none that this version can read."""
    path = folder / PLAN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("version")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"found no {PLAN} in {folder}: expected a folder that ./run_all.sh worked in; name it with "
                        "--output DIR") from None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UnreadablePlan(f"{path} is damaged ({type(error).__name__}: {' '.join(str(error).split())}): {AGAIN}"
                             ) from None
    if version != _version():
        raise UnreadablePlan(f"{path} was written by another version of this program, which this one cannot read: "
                             f"{AGAIN}")
    try:
        if content["sha256"] != _digest(content):
            raise ValueError("changed after it was written")
        return Plan(_options(content["options"]), _inputs(content["inputs"]))
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UnreadablePlan(f"{path} is damaged ({error}): {AGAIN}") from None


def plan_of(output: Path) -> Plan:
    """The plan of the run that works in `output`, whose stages can be made. Raises `UserError`, also for a folder that
    was moved or copied: what is written in it names the old place."""
    plan = read_plan(output)
    unknown = [task for task in plan.options.tasks if task not in TASKS]
    if unknown:
        raise UnreadablePlan(f"{output / PLAN} has a task {unknown[0]} that is not known here: set {VARIABLE} as the "
                             "run had it")
    if not plan.options.output.exists() or not plan.options.output.samefile(output):
        raise UserError(f"{output} was moved or copied: its {PLAN} is that of a run in {plan.options.output}; move it "
                        f"back, or start ./run_all.sh with the same options and --output {output}")
    return plan


def _options(values: dict[str, Any]) -> Options:
    lists = ("tasks", "methods", "rerun", "said", "train_shares")
    cluster = values["cluster"] | {"sbatch": tuple((name, value) for name, value in values["cluster"]["sbatch"]),
                                   "setup": tuple(values["cluster"]["setup"])}
    return Options(**values | {
        **{name: tuple(values[name]) for name in lists},
        **{name: Path(values[name]) if values[name] is not None else None for name in PATHS},
        "checkpoints": {name: Path(path) for name, path in values["checkpoints"].items()},
        "data": {option: tuple(DataFolder(**_with_path(one)) for one in folders)
                 for option, folders in values["data"].items()},
        "pretrainings": tuple(Pretraining(**one | {"config": _config(one["config"])})
                              for one in values["pretrainings"]),
        "cluster": ClusterOptions(**cluster)})


def _config(values: dict[str, Any]) -> Config:
    sections = values["train"] | values["objective"] | values["runtime"]
    return load_config(None, {"objective": values["objective_name"], **sections})


def _inputs(values: dict[str, Any]) -> Inputs:
    return Inputs({part: Photos(**_with_path(one)) for part, one in values["photos"].items()},
                  {task: tuple(TaskData(**_with_path(one)) for one in data) for task, data in values["data"].items()},
                  values["checkpoints"],
                  {task: Protocol(**one) for task, one in values["protocols"].items()})


def _with_path(values: dict[str, Any]) -> dict[str, Any]:
    more = {"annotations": tuple(map(Path, values["annotations"]))} if "annotations" in values else {}
    return values | {"folder": Path(values["folder"])} | more
