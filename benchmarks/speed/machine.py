"""What a figure was measured on."""

import os
import platform
from pathlib import Path


def describe() -> dict[str, object]:
    """Processor, cores that this process may use, Python and the libraries' versions."""
    import importlib.metadata as metadata

    versions = {}
    for name in ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "simplejpeg"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(),
            "system": platform.system(), "versions": versions}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
