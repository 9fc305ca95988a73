"""How many GPUs of this machine a run uses."""

import os
import re
import shutil
import subprocess
from functools import cache

from benchmarks.options.run_options import Options


def count_gpus(options: Options) -> int:
    """GPUs to use; 0 on a CPU. The demo's batches are for one, unless --gpus says a number."""
    if options.device == "cpu":
        return 0
    if options.gpus is not None:
        return options.gpus
    visible = _visible_gpus()
    return min(visible, 1) if options.demo else visible


def _visible_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return _listed_gpus(shutil.which("nvidia-smi"))
    numbers = visible.replace(" ", "").split(",")
    return len(numbers) - numbers.count("") - numbers.count("-1")


@cache
def _listed_gpus(nvidia_smi: str | None) -> int:
    """Asked once: an idle driver takes seconds to answer, and a plan asks for each stage."""
    if nvidia_smi is None:
        return 0
    listed = subprocess.run([nvidia_smi, "-L"], capture_output=True, text=True, check=False)
    return len(re.findall(r"^GPU ", listed.stdout, re.MULTILINE))
