"""How .venv is made: Python found, steps run into a log with a sign of life, one line when a step fails.

Like environment.py, which calls this: standard library only, syntax of Python 3.8.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
MARKER = "made-by-clove-suite"
GIGABYTES_NEEDED = 11


class Stop(Exception):
    """What the user can mend, in one line."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def supported(version: list[int]) -> bool:
    return OLDEST <= tuple(version[:2]) <= NEWEST


def take_lock(root: Path) -> int | None:
    """Wait until nobody else makes this checkout's .venv. None on a file system that has no locks."""
    lock = os.open(str(root / ".venv.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 20, 0).decode() or "?"
        say(f"Another run (process {holder}) is making the environment; waiting for it.")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        os.close(lock)
        return None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def find_python() -> tuple[Path, list[int]]:
    """The first suitable Python on the PATH that can make a venv, and its version.

    `Stop` says in one line what was found instead and what to install.
    """
    question = ("import sys\ntry:\n import venv, ensurepip; able = 1\nexcept ImportError:\n able = 0\n"
                "print('%d %d %d' % sys.version_info[:3], able, sys.executable)")
    found, packages = [], []
    for name in ["python3"] + [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]:
        try:
            answer = subprocess.run([name, "-I", "-c", question], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                    text=True, timeout=60)
            major, minor, micro, able, path = answer.stdout.strip().split(" ", 4)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            continue
        version = [int(major), int(minor), int(micro)]
        if supported(version):
            if able == "1":
                return Path(path), version
            packages.append(f"python{major}.{minor}-venv")
        found.append(f"{name} {major}.{minor}.{micro}" + ("" if able == "1" else " without venv"))
    advice = packages[0] if packages else "python3-venv; where that is older than 3.11, as on 22.04: python3.11-venv"
    raise Stop(f"expected Python 3.11, 3.12 or 3.13 with venv, found {', '.join(found) or 'no python3'}; "
               f"install it (Debian, Ubuntu: apt install {advice}) and start again")


def die_with_parent() -> None:
    """Runs in a child: the kernel ends pip when we are killed, so that it does not write on behind the next try."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def explain_failure(title: str, log: Path) -> Stop:
    """One line for what pip's log knows; for the unknown, the log's end goes to the screen as well."""
    text = log.read_text(encoding="utf-8", errors="replace").split("\n$ ")[-1]
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return Stop(f"the disk is full ({title}); free {GIGABYTES_NEEDED} GB and start again; log: {log}")
    if re.search(r"Retrying \(Retry|ConnectionError|connection broken|Read timed out|Network is unreachable", text):
        return Stop(f"pip does not reach its package index ({title}); check the network and pip's settings, "
                    f"then start again; log: {log}")
    for line in text.splitlines()[-15:]:
        say(f"    | {line}")
    return Stop(f"{title} failed; the log's last lines stand above, all of it in {log}")


def gigabytes(folder: Path) -> float:
    """Size of all files below `folder`; some may vanish meanwhile."""
    total = 0
    for parent, _, names in os.walk(str(folder)):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total / 1e9


class Maker:
    """Makes .venv step by step, with one log file and a sign of life on the screen."""

    def __init__(self, root: Path, lock: int | None) -> None:
        self.root, self.venv, self.lock = root, root / ".venv", lock
        self.python, self.log = self.venv / "bin" / "python", self.venv / "install.log"
        self.count, self.steps = 0, 6
        # The user's index settings stay; what would send packages elsewhere than into .venv does not. Downloads are
        # unpacked on .venv's own disk, since /tmp is often small and in memory.
        kept = {name: value for name, value in os.environ.items()
                if not name.startswith("PYTHON") and name not in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")}
        self.environ = dict(kept, TMPDIR=str(self.venv / "tmp"), PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1")

    def step(self, title: str, command: list[str]) -> None:
        """Run one command into the log, and show that it lives: seconds and gigabytes so far."""
        self.count += 1
        label, start = f"  [{self.count}/{self.steps}] {title}", time.monotonic()
        terminal = sys.stderr.isatty()
        before, after = ("\r", "   ") if terminal else ("", "\n")  # one line rewritten, or a line each half minute
        print(label, end=after, file=sys.stderr, flush=True)
        with self.log.open("ab") as log:
            log.write(("\n$ " + " ".join(command) + "\n").encode())
            log.flush()
            process = subprocess.Popen(
                command, cwd=str(self.root), env=self.environ, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, preexec_fn=die_with_parent,
                pass_fds=() if self.lock is None else (self.lock,))  # whoever writes into .venv holds the lock
            code = None
            try:
                while code is None:
                    try:
                        code = process.wait(timeout=5 if terminal else 30)
                    except subprocess.TimeoutExpired:
                        progress = f"{time.monotonic() - start:.0f} s, {gigabytes(self.venv):.1f} GB so far"
                        print(f"{before}{label}: {progress}", end=after, file=sys.stderr, flush=True)
            finally:
                if code is None:
                    process.kill()
                    process.wait()
        ended = "failed after" if code else "done in"
        say(f"{before}{label}: {ended} {time.monotonic() - start:.0f} s" + " " * 12 * terminal)  # over the older words
        if code:
            raise explain_failure(title, self.log)

    def pip(self, title: str, *arguments: str) -> None:
        # Relative paths, run in the checkout: a space in the checkout's own path then cannot split an option.
        self.step(title, [str(self.python), "-I", "-m", "pip", "install", "--no-input", "--progress-bar", "off",
                          *arguments])

    def make(self, base: Path, version: list[int]) -> None:
        """All packages into a .venv that is absent or empty, in five steps."""
        free = shutil.disk_usage(str(self.root)).free / 1e9
        if free < GIGABYTES_NEEDED:
            raise Stop(f"expected {GIGABYTES_NEEDED} GB free for the environment (6 GB when done), found {free:.1f} GB "
                       f"at {self.root}; free some space, or put the checkout on another disk, and start again")
        say(f"Making the environment in {self.venv} with {base}: about 6 GB of packages, some minutes, once.")
        self.venv.mkdir(exist_ok=True)
        (self.venv / MARKER).write_text("Made by run_all.sh, which may delete it.\n", encoding="utf-8")
        (self.venv / "tmp").mkdir()
        pinned = ("-c", "constraints.txt")
        self.step("an empty environment", [str(base), "-I", "-m", "venv", str(self.venv)])
        self.pip("torch and torchvision (the long one)", *pinned, "torch", "torchvision", "setuptools", "wheel")
        self.pip("the other packages", *pinned, "--no-build-isolation", "-e", ".[test]")
        # lvis, for the task of that name alone, would bring opencv-python over opencv-python-headless.
        self.pip("cityscapesscripts and lvis", *pinned, "--no-deps", "cityscapesscripts", "lvis")
        self.detectron2(self.venv / "lib" / "python{}.{}".format(*version) / "site-packages")

    def detectron2(self, purelib: Path) -> None:
        """Install the wheel tagged for Python 3.10, whose Python code runs on later ones, without its `tools`."""
        target = self.venv / "tmp" / "detectron2"
        self.pip("detectron2", "--require-hashes", "--no-deps", "--only-binary=:all:", "--python-version", "3.10",
                 "--implementation", "cp", "--abi", "none", "--target", str(target),
                 "-r", "detectron2-requirements.txt")
        for entry in target.iterdir():
            if entry.name not in ("tools", "bin"):
                os.replace(str(entry), str(purelib / entry.name))
