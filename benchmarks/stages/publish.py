"""What a stage measured, put into the folder of all results with whose it is and which stage made it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records import probe_results, results
from benchmarks.stages.stage import Stage


@dataclass(frozen=True)
class Origin:
    """Whose a result is: its row, the label of the dataset (None: the demo's); the folder of all
    results; the sub-folder of the images that were pretrained on ("": all of them, or none)."""

    row: str
    label: str | None
    demo: bool
    results: Path
    images: str = ""

    def sign(self, record: dict[str, Any], stage: Stage, key: str) -> None:
        """Write it into a result or probe, with the stage that made it."""
        record |= {"method": self.row, "demo": self.demo,
                   "stage": {"name": stage.name, "key": stage.result_key(key), "planned": stage.planned}}
        if self.images:
            record["stage"] |= {"images": self.images}
        if self.label is not None:
            record["dataset"] |= {"label": self.label}


def publish(folder: Path, key: str, stage: Stage, origin: Origin) -> Path:
    """Put a finished evaluation into results/runs."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    result["epochs"] = result["weights"]["epochs"]
    # The config names its folder, and weights beside it, from where the run lies: results are shared.
    config = result["config"]
    config["OUTPUT_DIR"] = folder.name
    weights = Path(config.get("MODEL", {}).get("WEIGHTS", ""))
    if weights.is_relative_to(folder.parent):
        config["MODEL"]["WEIGHTS"] = weights.relative_to(folder.parent).as_posix()
    origin.sign(result, stage, key)
    return results.write_result(origin.results / "runs", result)


def publish_probe(folder: Path, key: str, stage: Stage, origin: Origin) -> Path:
    """Put a finished probe into results/probes."""
    probe = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    origin.sign(probe, stage, key)
    return probe_results.write_probe(origin.results / "probes", probe)
