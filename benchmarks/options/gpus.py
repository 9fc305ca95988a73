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
    return min(_visible_gpus(), 1) if options.demo else _visible_gpus()


def _visible_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        numbers = visible.replace(" ", "").split(",")
        return len(numbers) - numbers.count("") - numbers.count("-1")
    program = shutil.which("nvidia-smi")
    return _listed_gpus(program) if program else 0


@cache
def _listed_gpus(nvidia_smi: str) -> int:
    """Asked once: an idle driver takes seconds to answer, and a plan asks for each stage."""
    listed = subprocess.run([nvidia_smi, "-L"], capture_output=True, text=True, check=False)
    return len(re.findall(r"^GPU ", listed.stdout, re.MULTILINE)) if listed.returncode == 0 else 0
