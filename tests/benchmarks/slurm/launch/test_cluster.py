"""What may be asked of a cluster, and what it becomes."""

import argparse

import pytest

from benchmarks.options.cluster import ClusterOptions, add_options, minutes, read_options
from pretrain.common.errors import UserError


def parse(*words: str) -> ClusterOptions:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return read_options(parser.parse_args(words))


@pytest.mark.parametrize(("text", "expected"), [
    ("90", 90), ("1:30:00", 90), ("01:30:01", 91), ("0:00:01", 1), ("2-12", 3600), ("1-0:30", 1470),
    ("1-00:00:30", 1441),
])
def test_minutes__slurms_notations(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize(("text", "end"), [
    ("10:00", "found '10:00' (Slurm reads two numbers as minutes and seconds)"), ("soon", "found 'soon'"),
    ("-5", "found '-5'"), ("1:2:3:4", "found '1:2:3:4'"),
])
def test_minutes__anything_else_is_refused(text, end):
    with pytest.raises(UserError) as refused:
        minutes(text)
    assert str(refused.value) == f"--time: expected minutes, HH:MM:SS, D-HH or D-HH:MM:SS, {end}"


def test_words__become_options():
    options = parse("--cluster", "slurm", "--partition", "gpu", "--account", "lab", "--nodes", "2", "--gpus-per-node",
                    "8", "--time", "24:00:00", "--mem-gb", "200", "--sbatch", "constraint=a100|h100", "--sbatch",
                    "exclusive", "--setup", "module load cuda")
    assert options == ClusterOptions("slurm", "gpu", "lab", 2, 8, None, None, 200, 1440, 120,
                                     (("constraint", "a100|h100"), ("exclusive", True)), ("module load cuda",))
    assert (options.tasks, options.processes) == (8, 16)
    assert parse("--cluster", "slurm", "--time", "9", "--retries", "0").retries == 0 and options.retries == 2
    assert parse() == ClusterOptions() and ClusterOptions().processes == 1


@pytest.mark.parametrize(("words", "why"), [
    ("--partition gpu", "--partition needs --cluster slurm, found --cluster local (GPUs of this machine: --gpus)"),
    ("--sbatch exclusive --setup x",
     "--sbatch, --setup needs --cluster slurm, found --cluster local (GPUs of this machine: --gpus)"),
    ("--nodes 2", "--nodes needs --cluster slurm, found --cluster local (GPUs of this machine: --gpus)"),
    ("--retries 1", "--retries needs --cluster slurm, found --cluster local (GPUs of this machine: --gpus)"),
    ("--cluster slurm --time 9 --retries -1", "--retries must be at least 0, found -1"),
    ("--nodes 0", "--nodes must be at least 1, found 0"),
    ("--cluster slurm", "--cluster slurm needs --time, the limit of one start of the job; a run that needs longer "
                        "saves, is requeued and resumes"),
    ("--cluster slurm --time 0", "--time must be at least 1, found 0"),
    ("--cluster slurm --time 2", "--signal-delay must be shorter than --time, found 120 seconds and 2 minutes"),
    ("--cluster slurm --time 9 --gpus-per-node 4 --tasks-per-node 2",
     "--tasks-per-node 2 with --gpus-per-node 4: there is one process for each GPU; leave out --tasks-per-node"),
    ("--cluster slurm --time 9 --sbatch=--qos=high", "--sbatch: expected NAME=VALUE or NAME with a long option of "
                                                     "sbatch, found '--qos=high'"),
])
def test_what_does_not_fit_together__is_refused(words, why):
    with pytest.raises(UserError) as refused:
        parse(*words.split())
    assert str(refused.value) == why
