"""plan.json: what was asked for and found, whole, so that a job or a later command makes the same stages from it."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from benchmarks.options.cluster import ClusterOptions
from benchmarks.options.evaluations import Protocol
from benchmarks.options.inputs import DataFolder, Photos, TaskData
from benchmarks.options.pretrainings import Pretraining
from benchmarks.options.run_options import Options
from benchmarks.stages.checked_inputs import Inputs
from benchmarks.stages.stage import Stage
from benchmarks.stages.suite import build
from pretrain.common.atomic import write_text
from pretrain.common.errors import UserError, refuse
from pretrain.config import Config, load_config
from transfer.tasks import TASKS, VARIABLE

PLAN = "plan.json"
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
    text = json.dumps({"options": content["options"], "inputs": content["inputs"]}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_plan(folder: Path) -> Plan:
    """The plan in FOLDER. Raises `UserError` where there is none that this version can read."""
    path = folder / PLAN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("version") != _version():
            problem = "was written by another version of this program, which this one cannot read"
        elif content["sha256"] != _digest(content):
            problem = "is damaged (changed after it was written)"
        else:
            return Plan(_made(Options, content["options"]), _made(Inputs, content["inputs"]))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"found no {PLAN} in {folder}: expected a folder that ./run_all.sh worked in; name it with "
                        "--output DIR") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"is damaged ({type(error).__name__}: {' '.join(str(error).split())})"
    raise UnreadablePlan(f"{path} {problem}: {AGAIN}")


def plan_of(output: Path) -> Plan:
    """The plan of the run that works in `output`, whose stages can be made. Raises `UserError`,
    also for a folder that was moved or copied: what is written in it names the old place."""
    plan = read_plan(output)
    unknown = sorted(set(plan.options.tasks) - set(TASKS))
    if unknown:
        raise UnreadablePlan(f"{output / PLAN} has a task {unknown[0]} that is not known here: set {VARIABLE} as the "
                             "run had it")
    refuse((not plan.options.output.exists() or not plan.options.output.samefile(output),
            f"{output} was moved or copied: its {PLAN} is that of a run in {plan.options.output}; move it "
            f"back, or start ./run_all.sh with the same options and --output {output}"))
    return plan


def _made(kind: Any, value: Any) -> Any:
    """`value`, which JSON wrote, as the type `kind` of a field; `Config` makes itself, with its checks."""
    inner = get_args(kind)
    if value is None:
        return None
    if kind is Config:
        return load_config(None, {"objective": value["objective_name"], **value["train"], **value["objective"],
                                  **value["runtime"]})
    if is_dataclass(kind):
        return kind(**{field.name: _made(field.type, value[field.name]) for field in fields(kind)})
    if get_origin(kind) is tuple:
        return tuple([_made(inner[0], one) for one in value])
    if get_origin(kind) is dict:
        return {key: _made(inner[1], one) for key, one in value.items()}
    return Path(value) if Path in (kind, *inner) else value
