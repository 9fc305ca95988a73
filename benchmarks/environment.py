"""The Python environment that run_all.sh works in: an active one that is complete, or the checkout's own .venv.

Standard library only and syntax of Python 3.8: any Python 3 must get far enough here to say that it is too old.
A .venv of ours holds a marker from its first moment and a stamp from its last: without the stamp it is thrown away and
made again, because pip reports a half-written package as installed. Messages go to stderr, the chosen Python to stdout.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file in isolated mode

from benchmarks.install import MARKER, Maker, Stop, find_python, say, supported, take_lock  # noqa: E402

STAMP = "complete.json"

# distribution: (module, accepted versions). The same lists stand in pyproject.toml; a test compares them.
REQUIRED = {
    "torch": ("torch", ">=2.6"),
    "torchvision": ("torchvision", ">=0.21"),
    "numpy": ("numpy", ">=1.26"),
    "scipy": ("scipy", ">=1.11"),
    "pandas": ("pandas", ">=2.1"),
    "pillow": ("PIL", ">=10"),
    "matplotlib": ("matplotlib", ">=3.8"),
    "opencv-python-headless": ("cv2", ">=4.8"),
    "shapely": ("shapely", ">=2"),
    "pycocotools": ("pycocotools", ">=2.0.7"),
    "safetensors": ("safetensors", ">=0.4.3"),
    "pyyaml": ("yaml", ">=6"),
    "tabulate": ("tabulate", ">=0.9"),
    "tqdm": ("tqdm", ">=4.66"),
    "tensorboard": ("tensorboard", ">=2.14"),
    "submitit": ("submitit", ">=1.5"),
    "packaging": ("packaging", ">=23"),
    "yacs": ("yacs", ">=0.1.8"),
    "fvcore": ("fvcore", ">=0.1.5"),
    "iopath": ("iopath", ">=0.1.9"),
    "omegaconf": ("omegaconf", ">=2.1,<2.4"),
    "hydra-core": ("hydra", ">=1.1"),
    "cloudpickle": ("cloudpickle", ">=2"),
    "termcolor": ("termcolor", ">=1.1"),
    "pyquaternion": ("pyquaternion", ">=0.9.9"),
}
TEST = {
    "pytest": ("pytest", ">=8"),
    "pytest-xdist": ("xdist", ">=3.5"),
    "ruff": ("ruff", ">=0.6"),
    "simplejpeg": ("simplejpeg", ">=1.7"),
    "webdataset": ("webdataset", ">=0.2.100"),
}
# Not in pyproject.toml, because pip would refuse or spoil them: detectron2's only wheel is tagged for another Python,
# and cityscapesscripts asks for the obsolete `typing`, which shadows the standard one.
APART = {
    "detectron2": ("detectron2", ""),
    "cityscapesscripts": ("cityscapesscripts", ">=2.2"),
}


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.14.1+cu130" -> (2, 14, 1)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def accepted(version: str, ranges: str) -> bool:
    """Whether `version` lies in `ranges`, written like ">=2.1,<2.4" (only these two signs)."""
    for condition in filter(None, ranges.split(",")):
        bound = numbers(condition.lstrip("<>="))
        if condition.startswith(">=") and numbers(version) < bound:
            return False
        if condition.startswith("<") and numbers(version) >= bound:
            return False
    return True


def missing(wanted: dict[str, tuple[str, str]]) -> list[str]:
    """What this interpreter lacks of `wanted`, found without importing anything heavy."""
    lacking = []
    for distribution, (module, ranges) in wanted.items():
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:  # no origin: a left-over folder without code
            lacking.append(distribution)
            continue
        try:  # a module may come from another distribution (opencv-python, a source tree): then its presence is enough
            found = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not accepted(found, ranges):
            lacking.append(f"{distribution}{ranges} (found {found})")
    return lacking


def answer(with_tests: bool) -> dict:
    """What `probe` tells of this interpreter."""
    wanted = dict(REQUIRED, **APART, **(TEST if with_tests else {}))
    return {"version": list(sys.version_info[:3]), "missing": missing(wanted)}


def probe(python: Path, with_tests: bool) -> dict | None:
    """Ask an interpreter for {"version": [3, 11, 7], "missing": [...]}; None when it does not answer."""
    if str(python) == sys.executable:
        return answer(with_tests)
    command = [str(python), "-I", __file__, "probe"] + ["--test"] * with_tests
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        return json.loads(ended.stdout) if ended.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def active_environment(root: Path, with_tests: bool) -> Path | None:
    """The Python of the active venv or conda environment when it has everything, else None and a word why not."""
    folder = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    if not folder or os.environ.get("CI") == "true":
        return None
    if (Path(folder) / MARKER).exists() and Path(folder).resolve() == (root / ".venv").resolve():
        return None  # our own .venv is judged by its stamp, active or not
    python = Path(folder) / "bin" / "python"
    told = probe(python, with_tests)
    if told is None:
        lacking = "a Python that answers"
    elif not supported(told["version"]):
        lacking = "Python 3.11 to 3.13 (found {}.{})".format(*told["version"])
    elif told["missing"]:
        lacking = ", ".join(told["missing"])
    else:
        return python
    say(f"The active environment {folder} lacks {lacking}; the checkout's .venv is used instead.")
    return None


def stamp_key(root: Path, version: list[int]) -> str:
    """Hash of all that decides what a finished .venv holds: the pins (not their comments) and Python's version."""
    parts = ["{}.{}".format(*version)]
    for name in ("constraints.txt", "detectron2-requirements.txt"):
        lines = (line.split("#")[0].strip() for line in (root / name).read_text(encoding="utf-8").splitlines())
        parts += [name, *filter(None, lines)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def state(root: Path) -> str:
    """What .venv is: "absent", "complete", "foreign" (not made by us, never touched), or why it must be made anew."""
    venv = root / ".venv"
    if not venv.is_dir():
        return "foreign" if venv.exists() or venv.is_symlink() else "absent"
    if not (venv / MARKER).exists():
        return "foreign" if any(venv.iterdir()) else "absent"
    if not (venv / STAMP).exists():
        return "it was interrupted while being made"
    told = probe(venv / "bin" / "python", with_tests=True)
    if told is None:
        return "its Python does not run any more"
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
    except ValueError:
        return "its stamp cannot be read"
    if stamp.get("key") != stamp_key(root, told["version"]):
        return "the pinned versions or its Python changed"
    return "it lost " + ", ".join(told["missing"]) if told["missing"] else "complete"


def clear(venv: Path) -> None:
    """Empty a .venv of ours; the marker goes last, so that a clearing cut off is still known as ours."""
    (venv / STAMP).unlink(missing_ok=True)
    for entry in sorted(venv.iterdir(), key=lambda entry: entry.name == MARKER):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def check() -> None:
    """Import everything, then run a small Mask R-CNN forward and backward on the CPU. Any error ends it."""
    for module, _ in [*REQUIRED.values(), *TEST.values(), *APART.values()]:
        importlib.import_module(module)
    importlib.import_module("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    import torch
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    cfg = get_cfg()
    cfg.merge_from_list([
        "MODEL.DEVICE", "cpu", "MODEL.MASK_ON", True, "MODEL.ROI_HEADS.NUM_CLASSES", 2,
        "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.RESNETS.DEPTH", 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"], "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
        "MODEL.ANCHOR_GENERATOR.SIZES", [[8], [16], [32], [64], [128]],
        "MODEL.RPN.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"], "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16,
        "MODEL.ROI_HEADS.IN_FEATURES", ["p2", "p3", "p4", "p5"],
        "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC", 1,
        "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead", "MODEL.ROI_MASK_HEAD.NUM_CONV", 1])
    model = build_model(cfg).train()
    truth = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 40.0, 48.0]])), gt_classes=torch.tensor([1]))
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, 8:48, 8:40] = True
    truth.gt_masks = BitMasks(masks)
    with EventStorage():
        losses = model([{"image": torch.rand(3, 64, 64) * 255, "instances": truth, "height": 64, "width": 64}])
    sum(losses.values()).backward()
    gradient = model.backbone.bottom_up.stem.conv1.weight.grad
    if "loss_mask" not in losses or gradient is None or not bool(torch.isfinite(gradient).all()):
        raise RuntimeError(f"Mask R-CNN's training step is not sound: losses {sorted(losses)}, gradient {gradient}")


def make(root: Path, lock: int | None) -> None:
    """Make .venv; the stamp, written last and whole, says that every step and the check went well."""
    base, version = find_python()
    maker = Maker(root, lock)
    maker.make(base, version)
    maker.step("a check: every import, one training step of a small Mask R-CNN",
               [str(maker.python), "-I", __file__, "check"])
    shutil.rmtree(maker.venv / "tmp")
    part = maker.venv / (STAMP + ".part")
    part.write_text(json.dumps({"key": stamp_key(root, version), "python": version}) + "\n", encoding="utf-8")
    os.replace(str(part), str(maker.venv / STAMP))
    say("The environment is ready.")


def find(root: Path, with_tests: bool, may_make: bool) -> Path:
    """The Python to work with; makes .venv when there is none and `may_make`."""
    active = active_environment(root, with_tests)
    if active:
        return active
    python = root / ".venv" / "bin" / "python"
    found = state(root)
    if found != "complete" and not may_make:
        raise Stop("there is no environment yet; make it with ./run_all.sh environment")
    if found != "complete":
        lock = take_lock(root)
        found = state(root)  # another run may have made it meanwhile
        if found == "foreign":
            raise Stop(f"{root / '.venv'} was not made by run_all.sh, so it is left alone; activate it if it has all "
                       "packages, or move it away, and start again")
        if found not in ("absent", "complete"):
            say(f"The environment in {root / '.venv'} is made anew: {found}.")
            clear(root / ".venv")
        if found != "complete":
            make(root, lock)
    return python


def main(arguments: list[str]) -> int:
    with_tests = "--test" in arguments
    if arguments[:1] == ["probe"]:
        print(json.dumps(answer(with_tests)))
    elif arguments[:1] == ["check"]:
        check()
    else:
        try:
            print(find(ROOT, with_tests, may_make="--only-look" not in arguments))
        except Stop as stop:
            say(f"error: {stop}")
            return 2
        except KeyboardInterrupt:
            say("\ninterrupted: start again with the same words to go on")
            return 130
        except OSError as error:
            say(f"error: {error.strerror}: {error.filename}; mend this and start again")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
