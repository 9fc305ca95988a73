"""`clove`, the one command: every command is there, helps, and completes; a misspelt one is answered."""

import subprocess
import sys

import pytest

from benchmarks import clove, completion
from pretrain import ROOT, __version__
from pretrain.common.errors import UserError


def test_help__lists_every_command_in_80_columns(capsys):
    assert clove.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in clove.COMMANDS)
    assert max(map(len, text.splitlines())) <= 99 and text.startswith("usage: clove COMMAND")


@pytest.mark.parametrize(("words", "text"), [
    (["fintune"], "unknown command 'fintune': expected `clove finetune`; `clove --help` explains all"),
    (["xyz"], "unknown command 'xyz': expected one of run, demo, pretrain"),
    (["--epochs", "200"], "--epochs: expected a command before the options, such as `clove run --epochs`"),
])
def test_main__answers_a_wrong_command(words, text):
    with pytest.raises(UserError, match="^" + text.replace("(", r"\(")):
        clove.main(words)


def test_main__version(capsys):
    assert clove.main(["--version"]) == 0
    assert capsys.readouterr().out == f"clove {__version__}\n"


@pytest.mark.parametrize("name", [name for name in clove.COMMANDS if name != "demo"])
def test_command__has_its_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        clove.main([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(("usage: clove ", "usage: ./run_all.sh")) and len(text.splitlines()) > 3


def test_command__detectron2_is_missing():
    code = ("import sys; sys.modules['detectron2'] = None; from benchmarks import clove\n"
            "sys.argv[1:] = ['finetune', '--task', 'coco', '--weights', 'random', '--data', 'x', '--output', 'y']\n"
            "clove.start()")
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr == "error: clove finetune needs detectron2, which is not installed: run `clove setup`, once\n"


def test_completion__knows_commands_options_and_values(capsys):
    assert completion.main(["bash"]) == 0
    script = capsys.readouterr().out + """
reply() { COMP_WORDS=(clove "$@"); COMP_CWORD=$#; COMPREPLY=(); _shtab_clove; echo "${COMPREPLY[*]}"; }
reply fin; reply finetune --sc; reply finetune --scale ''; reply run --clust
"""
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["finetune", "--scale --schedule", "full mini demo tiny",
                                         "--cluster --cluster-file"]


def test_run_all__hands_commands_on():
    text = (ROOT / "run_all.sh").read_text(encoding="utf-8")
    assert "-P -m benchmarks.clove" in text
