"""Where a result comes from: versions, hardware, and the state of this code."""

import contextlib
import json
import os
import platform
import resource
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from pretrain import ROOT
from transfer.records.code_hash import finetuning_sha256
from transfer.tasks import TASKS

PACKAGES = ("torchvision", "pycocotools", "numpy")  # beside those that compute a task's metrics


def versions() -> dict[str, str | None]:
    """Versions of everything that can change a metric; None for what is not installed."""
    import detectron2

    found = {"python": platform.python_version(), "torch": torch.__version__,
             "detectron2": detectron2.__version__}
    for name in [*PACKAGES, *(task.official for task in TASKS.values())]:
        if name in found or not name.isidentifier():  # a task's own code is not a package
            continue
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["cuda"] = torch.version.cuda if torch.cuda.is_available() else None
    return found


def hardware() -> dict:
    """Processor, usable cores, GPUs by name."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"cpu": _cpu_name(), "cores": len(os.sched_getaffinity(0)), "gpus": gpus}


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def code_version(task: str | None = None) -> dict[str, str | bool | None]:
    """{"git_sha", "dirty", "transfer_sha256"} of this checkout.

    The first two are None when it is not a checkout or git is not there; results/ does not make it
    dirty. The third is the hash of the code of a fine-tuning on `task`: when it changes, results
    are shown as stale. Beside a job's copy of the sources stands code.json, which says what they
    were copied from.
    """
    own = {"transfer_sha256": finetuning_sha256(task)}
    copied = ROOT / "code.json"
    if copied.is_file():
        origin = json.loads(copied.read_text(encoding="utf-8"))
        return {"git_sha": origin["git_sha"], "dirty": origin["dirty"], **own}
    try:
        sha = _git("rev-parse", "HEAD")
        return {"git_sha": sha, "dirty": bool(_git("status", "--porcelain", "--", ".", ":!results")), **own}
    except (OSError, subprocess.CalledProcessError):
        return {"git_sha": None, "dirty": None, **own}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def peak_memory_mb(device: str) -> int:
    """Of this process: what torch allocated on the GPU, or the largest resident size."""
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # Linux counts in KiB
