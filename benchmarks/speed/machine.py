"""The machine that a speed was measured on."""

import importlib.metadata
import platform

from transfer.records.provenance import hardware

LIBRARIES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "simplejpeg")


def describe() -> dict[str, object]:
    """Processor, cores that this process may use, GPUs, Python and the libraries' versions (None:
    not installed)."""
    installed = dict.fromkeys(LIBRARIES)
    for name in LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**hardware(), "python": platform.python_version(), "system": platform.system(), "versions": installed}
