"""The Python environment that run_all.sh works in: an active one that is complete, or the checkout's own .venv.

Standard library only and syntax of Python 3.8: any Python 3 must get far enough here to say that
it is too old. A .venv of ours is a venv, what pip or uv puts into it, and a stamp that is written
last: without the stamp it is removed and made again, because pip reports a half-written package
as installed. Messages go to stderr, the chosen Python to stdout. docs/install.md has the same
commands for doing it by hand.
"""

from __future__ import annotations

import ast
import fcntl
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
OLDEST, NEWEST = (3, 11), (3, 13)
MARKER, STAMP = "made-by-clove-suite", "complete.json"  # of a .venv of ours: from its first moment, from its last
GIGABYTES = 11  # while it is made; 6 when done
# Not in pyproject.toml, because pip would refuse or spoil them: detectron2's only wheel is tagged
# for another Python, and cityscapesscripts asks for the obsolete `typing`, which shadows the
# standard one.
APART = ["detectron2", "cityscapesscripts>=2.2"]
MODULES = {"pillow": "PIL", "opencv-python-headless": "cv2", "pyyaml": "yaml", "hydra-core": "hydra",
           "pytest-xdist": "xdist"}  # the others are called like their distribution
UV_NAMES = {"index-url": ("UV_DEFAULT_INDEX", " "), "extra-index-url": ("UV_INDEX", " "),
            "find-links": ("UV_FIND_LINKS", ","), "constraint": ("UV_CONSTRAINT", " "), "cert": ("SSL_CERT_FILE", " ")}
# pip, not uv: the wheel is tagged for Python 3.10, though its Python code runs on later ones. A folder follows.
WHEEL = "detectron2-requirements.txt"
WHEEL_OPTIONS = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--python-version", "3.10",
                 "--implementation", "cp", "--abi", "none", "--target"]
# Of an interpreter on the PATH: its version, whether it can make a venv, where it is.
QUESTION = ("import sys, importlib.util as util; "
            "print(*sys.version_info[:3], int(util.find_spec('ensurepip') is not None), "
            "sys.executable)")


class Stop(Exception):
    """What the user can fix, in one line."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def supported(version: list[int]) -> bool:
    return OLDEST <= tuple(version[:2]) <= NEWEST


def wanted(with_tests: bool) -> list[str]:
    """What pyproject.toml asks for, such as "torch>=2.6", and what cannot stand there."""
    import tomllib  # from Python 3.11

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = project["dependencies"] + APART
    if with_tests:
        requirements += project["optional-dependencies"]["test"]
    return requirements


def module(requirement: str) -> str:
    """The module to import for "opencv-python-headless>=4.8"."""
    distribution = re.split("[<>=]", requirement)[0]
    return MODULES.get(distribution, distribution)


def missing(requirements: list[str]) -> list[str]:
    """What this interpreter lacks, found without importing anything heavy: what is absent, else wrong versions."""
    specs = {text: importlib.util.find_spec(module(text)) for text in requirements}
    # Without an origin: a left-over folder without code.
    lacking = [text for text, spec in specs.items() if spec is None or spec.origin is None]
    if lacking:
        return lacking
    from packaging.requirements import Requirement  # one of the requirements

    for text in requirements:
        requirement = Requirement(text)
        try:  # a module may come from another distribution (opencv-python, a source tree): then its presence is enough
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            lacking.append(f"{requirement} (found {found})")
    return lacking


def probe(python: Path, with_tests: bool) -> dict | None:
    """Ask an interpreter for {"version": [3, 11, 7], "missing": [...]}; None when it does not answer."""
    command = [str(python), "-I", __file__, "probe"] + ["--test"] * with_tests
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True)
        return json.loads(ended.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def active_environment(root: Path, with_tests: bool) -> Path | None:
    """The Python of the active venv or conda environment when it has everything; else None, and a
    line says why not."""
    folder = os.environ.get("VIRTUAL_ENV") or os.environ.get("CONDA_PREFIX")
    if not folder or os.environ.get("CI") == "true":
        return None
    if (Path(folder) / MARKER).exists() and Path(folder).resolve() == (root / ".venv").resolve():
        return None  # our own .venv is judged by its stamp, active or not
    python = Path(folder) / "bin" / "python"
    answer = probe(python, with_tests)
    if answer is None:
        lacking = "a Python that answers"
    elif not supported(answer["version"]):
        lacking = "Python 3.11 to 3.13 (found {}.{})".format(*answer["version"])
    elif answer["missing"]:
        lacking = ", ".join(answer["missing"])
    else:
        return python
    say(f"The active environment {folder} lacks {lacking}; the checkout's .venv is used instead.")
    return None


def stamp_key(root: Path, version: list[int]) -> str:
    """Hash of all that decides what a finished .venv holds: the pins (not their comments) and Python's version."""
    parts = ["{}.{}".format(*version)]
    for name in ("constraints.txt", WHEEL):
        pins = [line.split("#")[0].strip() for line in (root / name).read_text(encoding="utf-8").splitlines()]
        parts += [name, *filter(None, pins)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def state(root: Path) -> str:
    """What .venv is: "absent", "complete", "foreign" (not made by us, never touched), or why it
    must be made anew."""
    venv = root / ".venv"
    if not os.path.lexists(venv) or (venv.is_dir() and not any(venv.iterdir())):
        return "absent"
    if not (venv / MARKER).exists():
        return "foreign"
    if not (venv / STAMP).exists():
        return "it was interrupted while being made"
    answer = probe(venv / "bin" / "python", with_tests=True)
    if answer is None:
        return "its Python does not run any more"
    if f'"{stamp_key(root, answer["version"])}"' not in (venv / STAMP).read_text(encoding="utf-8"):
        return "the pinned versions or its Python changed"
    if answer["missing"]:
        return "it lost " + ", ".join(answer["missing"])
    return "complete"


def clear(venv: Path) -> None:
    """Empty a .venv of ours but for the marker: a clearing that is cut off is still known as ours."""
    (venv / STAMP).unlink(missing_ok=True)
    for entry in venv.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != MARKER:
            entry.unlink()


def find_python(uv: str | None) -> tuple[str, list[int]]:
    """The first suitable Python on the PATH and its version; it must be able to make a venv, which
    uv does itself.

    `Stop` says in one line what was found instead and what to install.
    """
    found = []
    for name in ("python3", "python3.13", "python3.12", "python3.11"):
        try:
            answer = subprocess.run([name, "-I", "-c", QUESTION], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                    text=True, timeout=60)
            major, minor, micro, able, path = answer.stdout.strip().split(" ", 4)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            continue
        version = [int(major), int(minor), int(micro)]
        if supported(version) and (able == "1" or uv):
            return path, version
        found.append(f"{name} {major}.{minor}.{micro}" + {"0": " without venv", "1": ""}[able])
    raise Stop("expected Python 3.11, 3.12 or 3.13 with venv, found "
               f"{', '.join(found) or 'no python3'}; install it (Debian, Ubuntu: apt install "
               "python3-venv; where that is older than 3.11, as on 22.04: python3.11-venv) and "
               "start again")


def run(title: str, command: list[str], root: Path, environ: dict[str, str]) -> None:
    """One step, its output into .venv/install.log; `Stop` says in one line why it failed."""
    say(f"  {title} ...")
    log = root / ".venv" / "install.log"
    with log.open("ab") as file:
        file.write(("\n$ " + " ".join(command) + "\n").encode())
        file.flush()
        start = file.tell()
        # close_fds=False: pip holds the lock of .venv too, so that nobody clears it while a killed
        # run's pip writes on.
        ended = subprocess.run(command, cwd=str(root), env=environ, stdin=subprocess.DEVNULL, stdout=file,
                               stderr=subprocess.STDOUT, close_fds=False)
    if ended.returncode != 0:
        text = log.read_bytes()[start:].decode("utf-8", "replace").strip() or "it printed nothing"
        raise Stop(f"{title} failed: {text.splitlines()[-1]}; log: {log}")


def uv_settings(python: str, environ: dict[str, str]) -> dict[str, str]:
    """pip's settings under uv's names, so that both take the same packages from the same places: uv
    reads neither pip.conf nor PIP_*, and stops at the first index that has a package where pip
    takes the best version of all."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], env=environ, stdout=subprocess.PIPE, text=True)
    found = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    for section in ("global.", "install.", ":env:."):  # the later wins
        for line in listed.stdout.splitlines():
            key, _, value = line.partition("=")
            option = key[len(section):]
            if key.startswith(section) and option in UV_NAMES:
                name, separator = UV_NAMES[option]
                found[name] = separator.join(ast.literal_eval(value).split())
    return found


def fill(root: Path, base: str, version: list[int], uv: str | None) -> None:
    """All packages into a .venv that is empty but for its marker."""
    venv = root / ".venv"
    environ = {}  # the user's index settings stay; what sends packages elsewhere than into .venv does not
    for name, value in os.environ.items():
        elsewhere = name in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT") or name.startswith(("PYTHON", "UV_"))
        if not elsewhere or name == "UV_CACHE_DIR":
            environ[name] = value
    # Downloads are unpacked on .venv's own disk, since /tmp is often small and in memory.
    environ.update(TMPDIR=str(venv / "tmp"), PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1", UV_LINK_MODE="copy")
    python = str(venv / "bin" / "python")
    pip = [python, "-I", "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    install, make_venv = pip, [base, "-I", "-m", "venv"]
    if uv:
        install = [uv, "pip", "install", "--python", python]
        make_venv = [uv, "venv", "--seed", "--allow-existing", "--python", base]
    run("an empty environment", [*make_venv, str(venv)], root, environ)
    if uv:
        environ.update(uv_settings(python, environ))
    # Relative paths, run in the checkout: a space in the checkout's own path then cannot split an option.
    install = [*install, "-c", "constraints.txt"]
    run("torch and torchvision (the long one)",
        [*install, "torch", "torchvision", "setuptools", "wheel"], root, environ)
    run("the other packages", [*install, "--no-build-isolation", "-e", ".[test]"], root, environ)
    # lvis, for the task of that name alone, would bring opencv-python over opencv-python-headless.
    run("cityscapesscripts and lvis", [*install, "--no-deps", "cityscapesscripts", "lvis"], root, environ)
    target = venv / "tmp" / "detectron2"
    run("detectron2", [*pip, *WHEEL_OPTIONS, str(target), "-r", WHEEL], root, environ)
    move_wheel(target, venv / "lib" / "python{}.{}".format(*version) / "site-packages")
    run("a check: every import", [python, "-I", __file__, "check"], root, environ)


def move_wheel(unpacked: Path, site: Path) -> None:
    """detectron2 to where Python finds it, without its `tools`."""
    for entry in unpacked.iterdir():
        if entry.name not in ("tools", "bin"):
            shutil.move(str(entry), str(site / entry.name))


def make(root: Path) -> None:
    """Make .venv; the stamp, written last, says that every step went well."""
    uv = shutil.which("uv")
    base, version = find_python(uv)
    free = shutil.disk_usage(str(root)).free / 1e9
    if free < GIGABYTES:
        raise Stop(f"expected {GIGABYTES} GB free for the environment (6 GB when done), found "
                   f"{free:.1f} GB at {root}; free some space, or put the checkout on another "
                   "disk, and start again")
    venv = root / ".venv"
    say(f"Making the environment in {venv} with {base} and {Path(uv or 'pip').name}: about 6 GB of "
        "packages, some minutes, once.")
    venv.mkdir(exist_ok=True)
    (venv / MARKER).write_text("Made by run_all.sh, which may delete it.\n", encoding="utf-8")
    (venv / "tmp").mkdir()
    fill(root, base, version, uv)
    shutil.rmtree(venv / "tmp")
    (venv / STAMP).write_text(json.dumps({"key": stamp_key(root, version), "python": version}), encoding="utf-8")
    say("The environment is ready.")


def hold_lock(root: Path) -> None:
    """Until this process and the pip that it started have ended, no other run makes the environment."""
    lock = os.open(str(root / ".venv.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    os.set_inheritable(lock, True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("Another run is making the environment; waiting for it.")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        pass  # a file system without locks


def find(root: Path, with_tests: bool, may_make: bool) -> Path:
    """The Python to work with; makes .venv when there is none and `may_make`."""
    venv, python = root / ".venv", root / ".venv" / "bin" / "python"
    active = active_environment(root, with_tests)
    if active or state(root) == "complete":
        return active or python
    if not may_make:
        raise Stop("there is no environment yet; make it with ./run_all.sh environment")
    hold_lock(root)
    found = state(root)  # another run may have made it meanwhile
    if found == "complete":
        return python
    if found == "foreign":
        raise Stop(f"{venv} was not made by run_all.sh, so it is left alone; activate it if it has "
                   "all packages, or move it away, and start again")
    if found != "absent":
        say(f"The environment in {venv} is made anew: {found}.")
        clear(venv)
    make(root)
    return python


def main(arguments: list[str]) -> int:
    with_tests = "--test" in arguments
    if arguments[:1] == ["probe"]:
        answer = {"version": list(sys.version_info[:3]), "missing": []}
        if supported(answer["version"]):
            answer["missing"] = missing(wanted(with_tests))
        print(json.dumps(answer))
        return 0
    if arguments[:1] == ["check"]:
        for requirement in wanted(with_tests=True):
            importlib.import_module(module(requirement))
        return 0
    try:
        print(find(ROOT, with_tests, may_make="--only-look" not in arguments))
    except Stop as stop:
        say(f"error: {stop}")
        return 2
    except KeyboardInterrupt:
        say("\ninterrupted: run the same command again to resume")
        return 130
    except OSError as error:
        say(f"error: {error.filename}: {error.strerror}; fix this and start again")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
