"""How many GPUs of this machine a run uses."""

import os
import shutil
import subprocess
from functools import cache

from benchmarks.options.run_options import Options


def count_gpus(options: Options) -> int:
    """GPUs to use; 0 on a CPU. The demo's batches are for one, unless a number is said."""
    if options.device == "cpu":
        return 0
    if options.gpus is not None:
        return options.gpus
    return min(_visible_gpus(), 1) if options.demo else _visible_gpus()


def _visible_gpus() -> int:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([word for word in visible.split(",") if word.strip() not in ("", "-1")])
    program = shutil.which("nvidia-smi")
    return 0 if program is None else _listed_gpus(program)


@cache
def _listed_gpus(nvidia_smi: str) -> int:
    """Asked once: an idle driver takes seconds to answer, and a plan asks for each stage."""
    listed = subprocess.run([nvidia_smi, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
