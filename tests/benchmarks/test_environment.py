"""The environment is decided rightly, without installing anything: fake Pythons stand for the real ones."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import environment
from pretrain.common import errors

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "sh", "env", "readlink", "dirname", "nproc", "cat", "mkdir", "sleep")


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


# What a fake Python of an environment answers: `probe` with everything there, `-m benchmarks` with what it was given.
COMPLETE = """case "$*" in
  *environment.py*probe*) echo '{"version": [3, 12, 1], "missing": []}' ;;
  *) printf '%s|' "$PWD" "$PYTHONPATH" "$@"; echo ;;
esac"""

# A fake Python 3.12 on the PATH: real for environment.py; `-m venv` makes a fake environment whose pip writes down its
# arguments, fails when the file `fail` says so, and puts a detectron2 where --target says.
MAKING = f"""case "$*" in
  *ensurepip*) echo "3 12 1 1 $0" ;;
  *"-m venv"*) for last; do :; done
     mkdir -p "$last/bin" "$last/lib/python3.12/site-packages"
     cat "$(dirname "$0")/fake-venv-python" > "$last/bin/python"; chmod +x "$last/bin/python" ;;
  *) exec "{sys.executable}" "$@" ;;
esac"""
VENV_PYTHON = """here="$(dirname "$0")"
case "$*" in
  *"-S -c import sys"*) exit 1 ;;
  *environment.py*probe*) echo '{"version": [3, 12, 1], "missing": []}' ;;
  *"pip install"*) echo "$*" >> "$here/../../pip-calls"
     if [ -e "$here/../../fail" ]; then cat "$here/../../fail"; exit 1; fi
     while [ $# -gt 0 ]; do
       if [ "$1" = --target ]; then mkdir -p "$2/detectron2" "$2/tools" "$2/bin"; fi
       shift
     done ;;
esac"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what making the environment needs, in a folder with a space, beside a folder of programs."""
    root = tmp_path / "a check out"
    (root / "benchmarks").mkdir(parents=True)
    for name in ("run_all.sh", "constraints.txt", "detectron2-requirements.txt", "pyproject.toml",
                 "benchmarks/environment.py"):
        shutil.copy(ROOT / name, root / name)
    programs = tmp_path / "bin"
    programs.mkdir()
    for tool in (*TOOLS, "chmod"):
        (programs / tool).symlink_to(str(shutil.which(tool)))
    return root


def run_all(checkout: Path, *arguments: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess:
    environ = {"PATH": str(checkout.parent / "bin"), "HOME": str(checkout.parent), **variables}
    return subprocess.run([str(checkout / "run_all.sh"), *arguments], cwd=cwd, env=environ, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120)


def making_python(checkout: Path) -> None:
    script(checkout.parent / "bin" / "python3", MAKING)
    script(checkout.parent / "bin" / "fake-venv-python", VENV_PYTHON)


def ours(checkout: Path, *files: str) -> Path:
    venv = checkout / ".venv"
    for name in (environment.MARKER, *files):
        (venv / name).parent.mkdir(parents=True, exist_ok=True)
        (venv / name).write_text("", encoding="utf-8")
    return venv


def enough_disk(monkeypatch: pytest.MonkeyPatch, gigabytes: float = 100) -> None:
    usage = shutil.disk_usage(ROOT)._replace(free=int(gigabytes * 1e9))
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: usage)


# Small decisions


def test_missing__names_absent_and_hollow_modules_and_else_wrong_versions(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "hollow").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert environment.missing(["no-such", "pytest>=999", "hollow", "pillow>=1"]) == ["no-such", "hollow"]
    assert environment.missing(["pytest>=999", "os>=1", "pillow>=1,<999"]) == [
        f"pytest>=999 (found {pytest.__version__})"]


@pytest.mark.parametrize(("version", "ranges", "expected"), [
    ("2.14.1+cu130", ">=2.6", True), ("2.5.1", ">=2.6", False), ("2.10", ">=2.6", True), ("2.4.0", ">=2.1,<2.4", False),
    ("2.3.9", ">=2.1,<2.4", True), ("0.1.5.post20221221", ">=0.1.5", True), ("13.0.0", ">=10", True), ("1.0", "", True),
    ("2.11.0.dev20260101", ">=2.6", True)])
def test_missing__compares_numbers_not_letters(monkeypatch: pytest.MonkeyPatch, version: str, ranges: str,
                                               expected: bool):
    monkeypatch.setattr(environment.importlib.metadata, "version", lambda name: version)
    assert environment.missing([f"pytest{ranges}"]) == ([] if expected else [
        f"pytest{','.join(sorted(ranges.split(',')))} (found {version})"])


def test_stamp_key__follows_pins_and_python_but_not_comments(checkout: Path):
    before = environment.stamp_key(checkout, [3, 11, 7])
    assert environment.stamp_key(checkout, [3, 11, 9]) == before
    assert environment.stamp_key(checkout, [3, 12, 7]) != before
    pins = checkout / "constraints.txt"
    pins.write_text("# a word\n\n" + pins.read_text())
    assert environment.stamp_key(checkout, [3, 11, 7]) == before
    pins.write_text(pins.read_text().replace("numpy==2", "numpy==1"))
    changed = environment.stamp_key(checkout, [3, 11, 7])
    assert changed != before
    apart = checkout / "detectron2-requirements.txt"
    apart.write_text(apart.read_text().replace("sha256:4", "sha256:5"))
    assert environment.stamp_key(checkout, [3, 11, 7]) not in (before, changed)


def test_state__absent_empty_foreign_interrupted_broken(checkout: Path):
    assert environment.state(checkout) == "absent"
    (checkout / ".venv").mkdir()
    assert environment.state(checkout) == "absent"
    ours(checkout)
    assert environment.state(checkout) == "it was interrupted while being made"
    ours(checkout, environment.STAMP)
    assert environment.state(checkout) == "its Python does not run any more"
    (checkout / ".venv" / environment.MARKER).unlink()
    assert environment.state(checkout) == "foreign"
    shutil.rmtree(checkout / ".venv")
    (checkout / ".venv").write_text("a file")
    assert environment.state(checkout) == "foreign"


def test_clear__keeps_the_marker_until_the_end(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    venv = ours(checkout, environment.STAMP, "lib/a", "zoo/b")

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(environment.shutil, "rmtree", killed)
        environment.clear(venv)
    assert environment.state(checkout) == "it was interrupted while being made"
    environment.clear(venv)
    assert [path.name for path in venv.iterdir()] == [environment.MARKER]


def test_make__too_little_disk_is_said_before_anything_is_written(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    enough_disk(monkeypatch, gigabytes=2.5)
    with pytest.raises(environment.Stop, match=r"expected 11 GB free .* found 2\.5 GB"):
        environment.make(checkout)
    assert not (checkout / ".venv").exists()


def test_wanted__is_what_pyproject_asks_for_and_detectron2():
    plain, with_tests = environment.wanted(False), environment.wanted(True)
    assert set(plain) < set(with_tests) and "torch>=2.6,<3" in plain and "pytest>=8" in set(with_tests) - set(plain)
    assert environment.missing(with_tests) == []


# run_all.sh itself


def test_run_all__usage_without_any_python(checkout: Path):
    for arguments in ((), ("--help",), ("-h",)):
        result = run_all(checkout, *arguments)
        assert result.returncode == 0 and "./run_all.sh --demo" in result.stdout and result.stderr == ""


@pytest.mark.parametrize("found", ["no python3", "Python 3.6.9"])
def test_run_all__no_python_that_could_say_more_is_one_line(checkout: Path, found: str):
    if found != "no python3":
        script(checkout.parent / "bin" / "python3", f'[ "$1" = -V ] && echo "{found}"')
    result = run_all(checkout, "--demo")
    assert result.returncode == errors.USER_ERROR
    assert result.stderr == (f"error: expected Python 3.11, 3.12 or 3.13 with venv, found {found}; "
                             "install it (Debian, Ubuntu: apt install python3-venv) and start again\n")


@pytest.mark.parametrize(("answer", "found"), [
    ("3 10 12 1 /x", "python3 3.10.12"), ("3 14 0 1 /x", "python3 3.14.0"),
    ("3 12 3 0 /x", "python3 3.12.3 without venv"),
])
def test_run_all__unfit_python_is_one_line(checkout: Path, answer: str, found: str):
    script(checkout.parent / "bin" / "python3",
           f'case "$*" in *ensurepip*) echo "{answer}" ;; *) exec "{sys.executable}" "$@" ;; esac')
    result = run_all(checkout, "--demo")
    assert result.returncode == errors.USER_ERROR
    assert result.stderr == (
        f"error: expected Python 3.11, 3.12 or 3.13 with venv, found {found}; install it (Debian, Ubuntu: apt install "
        "python3-venv; where that is older than 3.11, as on 22.04: python3.11-venv) and start again\n")
    assert not (checkout / ".venv").exists()


def test_run_all__foreign_venv_is_left_alone(checkout: Path):
    making_python(checkout)
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "mine").write_text("dear")
    result = run_all(checkout, "--demo")
    assert result.returncode == errors.USER_ERROR and "was not made by run_all.sh" in result.stderr
    assert [path.name for path in (checkout / ".venv").iterdir()] == ["mine"]


def test_run_all__active_complete_environment_is_kept_and_arguments_survive(checkout: Path):
    making_python(checkout)
    active = checkout.parent / "my venv"
    script(active / "bin" / "python", COMPLETE)
    result = run_all(checkout, "--photos", "my photos/*", "", cwd=checkout.parent, VIRTUAL_ENV=str(active),
                     PYTHONPATH="/elsewhere")
    assert result.returncode == 0 and result.stderr == ""
    assert result.stdout.strip().split("|") == [
        str(checkout.parent), f"{checkout}:/elsewhere", "-P", "-m", "benchmarks", "--photos", "my photos/*", "", ""]
    assert not (checkout / ".venv").exists()


def test_run_all__making_it_then_using_it(checkout: Path):
    making_python(checkout)
    active = checkout.parent / "half"
    script(active / "bin" / "python", """echo '{"version": [3, 12, 1], "missing": ["torch", "detectron2"]}'""")
    first = run_all(checkout, "environment", VIRTUAL_ENV=str(active))
    python = checkout / ".venv" / "bin" / "python"
    assert first.returncode == 0 and first.stdout == f"environment: {python}\n", first.stderr
    assert f"The active environment {active} lacks torch, detectron2; the checkout's .venv is used" in first.stderr
    assert "  a check: every import ...\n" in first.stderr and "6 GB" in first.stderr
    calls = (checkout / "pip-calls").read_text()
    assert "--require-hashes" in calls and "--no-deps cityscapesscripts" in calls
    site = checkout / ".venv" / "lib" / "python3.12" / "site-packages"
    assert [path.name for path in site.iterdir()] == ["detectron2"]  # without the wheel's top-level `tools`
    assert (checkout / ".venv" / environment.STAMP).exists() and not (checkout / ".venv" / "tmp").exists()

    again = run_all(checkout, "environment")
    assert again.returncode == 0 and again.stderr == "" and again.stdout == first.stdout
    assert (checkout / "pip-calls").read_text() == calls


@pytest.mark.parametrize(("log", "line"), [
    ("WARNING: Retrying (Retry(total=4)) after connection broken\nERROR: No matching",
     "failed: ERROR: No matching; log: "),
    ("OSError: [Errno 28] No space left on device", "failed: OSError: [Errno 28] No space left on device; log: "),
    ("\n", "failed: it printed nothing; log: ")])
def test_run_all__failing_pip_leaves_no_stamp_and_the_next_run_starts_over(checkout: Path, log: str, line: str):
    making_python(checkout)
    (checkout / "fail").write_text(log)
    failed = run_all(checkout, "environment")
    assert failed.returncode == errors.USER_ERROR and failed.stdout == ""
    last = failed.stderr.splitlines()[-1]
    assert last.startswith(f"error: torch and torchvision (the long one) {line}")
    assert last.endswith(str(checkout / ".venv" / "install.log"))
    assert environment.state(checkout) == "it was interrupted while being made"
    (checkout / ".venv" / "half-written").write_text("")
    (checkout / "fail").unlink()
    healed = run_all(checkout, "environment")
    assert healed.returncode == 0 and "made anew: it was interrupted" in healed.stderr
    assert not (checkout / ".venv" / "half-written").exists()
    assert (checkout / ".venv" / environment.STAMP).exists()


def test_run_all__uv_on_the_path_takes_the_same_packages_from_pip_s_places(checkout: Path):
    making_python(checkout)
    # `uv venv ... DIR` makes what Python's venv would; `uv pip install` writes down what it was given and told.
    script(checkout.parent / "bin" / "uv", """here="$(dirname "$0")"
for last; do :; done
if [ "$1" = venv ]; then "$here/python3" -m venv "$last"; else echo "$*" >> uv-calls; env | sort > uv-told; fi""")
    settings = """global.extra-index-url='https://a/simple https://b/simple'
global.find-links='/wheels /more'
global.index-url='https://other/simple'
install.index-url='https://mirror/simple'
:env:.index-url='https://mine/simple'"""
    script(checkout.parent / "bin" / "fake-venv-python", VENV_PYTHON.replace(
        'case "$*" in', f'case "$*" in\n  *"pip config list"*) cat <<END\n{settings}\nEND\n;;', 1))
    for tool in ("sort", "cat"):
        (checkout.parent / "bin" / tool).unlink(missing_ok=True)
        (checkout.parent / "bin" / tool).symlink_to(str(shutil.which(tool)))
    made = run_all(checkout, "environment", UV_TORCH_BACKEND="cpu", UV_INDEX="https://not-pip-s/simple")
    assert made.returncode == 0 and "with" in made.stderr and "and uv: about 6 GB" in made.stderr, made.stderr
    python, start = checkout / ".venv" / "bin" / "python", "pip install --python"
    assert (checkout / "uv-calls").read_text().splitlines() == [
        f"{start} {python} -c constraints.txt torch torchvision setuptools wheel",
        f"{start} {python} -c constraints.txt --no-build-isolation -e .[test]",
        f"{start} {python} -c constraints.txt --no-deps cityscapesscripts lvis"]
    assert [line for line in (checkout / "uv-told").read_text().splitlines() if line.startswith("UV_")] == [
        "UV_DEFAULT_INDEX=https://mine/simple", "UV_FIND_LINKS=/wheels,/more",
        "UV_INDEX=https://a/simple https://b/simple", "UV_INDEX_STRATEGY=unsafe-best-match", "UV_LINK_MODE=copy"]
    [call] = (checkout / "pip-calls").read_text().splitlines()
    assert "--require-hashes --no-deps" in call and "-r detectron2-requirements.txt" in call
    assert (checkout / ".venv" / environment.STAMP).exists()


def test_run_all__waits_for_another_one_making_it(checkout: Path):
    making_python(checkout)
    with (checkout / ".venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        environ = {"PATH": str(checkout.parent / "bin")}
        waiting = subprocess.Popen([str(checkout / "run_all.sh"), "environment"], env=environ, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        first = waiting.stderr.readline()
        assert not (checkout / ".venv").exists()
    _, rest = waiting.communicate(timeout=120)
    assert first == "Another run is making the environment; waiting for it.\n"
    assert waiting.returncode == 0 and "The environment is ready." in rest


def test_active_environment__the_checkouts_own_venv_is_judged_by_its_stamp(checkout: Path, monkeypatch, capsys):
    venv = ours(checkout)
    script(venv / "bin" / "python", COMPLETE)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("VIRTUAL_ENV", str(venv))
    assert environment.active_environment(checkout, with_tests=False) is None and capsys.readouterr().err == ""
    (venv / environment.MARKER).unlink()
    assert environment.active_environment(checkout, with_tests=False) == venv / "bin" / "python"


def test_ci__the_active_environment_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    script(tmp_path / "bin" / "python", COMPLETE)
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    assert environment.active_environment(ROOT, with_tests=True) == tmp_path / "bin" / "python"
    monkeypatch.setenv("CI", "true")
    assert environment.active_environment(ROOT, with_tests=True) is None


CI_DEMO = "--demo --set pretrain.epochs=2 --set transfer.SOLVER.MAX_ITER=10 --set transfer.SOLVER.STEPS=8,"


def test_ci__stages_and_their_order():
    text = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"^stage .*?(\./run_all\.sh.*)$", text, re.MULTILINE) == [
        "./run_all.sh environment", "./run_all.sh python -m ruff check .", "./run_all.sh test --durations=40",
        f"./run_all.sh {CI_DEMO}",
        "./run_all.sh test --slow -n 3 --durations=40",
        "./run_all.sh python -m pip install --quiet -c constraints.txt hotcoco",
        "./run_all.sh python -m pytest -q tests/benchmarks/speed/test_evaluation.py \\"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK) and os.access(ROOT / "run_all.sh", os.X_OK)


def test_ci__a_failing_stage_ends_the_run_and_is_named(tmp_path: Path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    script(tmp_path / "run_all.sh", 'echo "$*" >> calls; [ "$*" != "$FAILING" ] || exit 7')
    script(tmp_path / "bin" / "id", "echo 1000")  # nothing is installed: the stage for that is root's
    for failing, code, stages in ((CI_DEMO, 7, 4), ("none", 0, 7)):
        (tmp_path / "calls").unlink(missing_ok=True)
        environment = {**os.environ, "FAILING": failing, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        result = subprocess.run([str(tmp_path / ".ci" / "run")], env=environment, capture_output=True, text=True,
                                timeout=60)
        assert result.returncode == code and len((tmp_path / "calls").read_text().splitlines()) == stages
        summary = result.stdout.split("Stages:\n")[1]
        assert len(re.findall(r"^  [a-z ]+ +\d+ s  ", summary, re.MULTILINE)) == stages
        assert ("FAILED (exit code 7)" in summary) is (code == 7)
