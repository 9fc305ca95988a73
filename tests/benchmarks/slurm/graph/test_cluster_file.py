"""cluster.yaml: the same keys as the command line, which wins."""

import pytest

from benchmarks.options.cluster import ClusterOptions
from benchmarks.options.run_options import parse
from pretrain import ROOT
from pretrain.common.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_example__is_understood_whole():
    options = parse(["--demo", "--cluster-file", str(ROOT / "benchmarks" / "cluster.example.yaml")])
    assert options.cluster == ClusterOptions("slurm", "gpu", "my-lab", 2, 8, None, 8, 400, 1440, 300,
                                             (("constraint", "a100"), ("exclusive", True)), ("module load cuda/12.4",),
                                             "$TMPDIR")
    assert options.max_jobs == 10 and options.gpus == 8
    assert options.said[0].endswith("cluster, partition, account, nodes, gpus_per_node, cpus_per_task, mem_gb, time, "
                                    "signal_delay, max_jobs, retries, local_disk, sbatch, setup")


def test_command_line__wins_and_adds_to_the_lists(here):
    (here / "cluster.yaml").write_text("partition: a\nnodes: 2\ntime: 10:00:00\nsbatch: {qos: low, comment: x}\n"
                                       "setup: [one]\n")
    options = parse(["--demo", "--cluster", "slurm", "--partition", "b", "--sbatch", "qos=high", "--setup", "two"])
    assert (options.cluster.partition, options.cluster.nodes, options.cluster.minutes) == ("b", 2, 600)
    assert dict(options.cluster.sbatch) == {"qos": "high", "comment": "x"} and options.cluster.setup == ("one", "two")


def test_file_in_this_folder__is_left_alone_by_a_run_on_this_machine(here):
    (here / "cluster.yaml").write_text("partition: a\nnodes: 2\ntime: 600\n")
    assert parse(["--demo"]).cluster == ClusterOptions()
    with pytest.raises(UserError, match=r"^--cluster-file cluster.yaml needs --cluster slurm"):
        parse(["--demo", "--cluster-file", "cluster.yaml"])


@pytest.mark.parametrize(("text", "why"), [
    ("partion: a", "cluster.yaml: unknown key 'partion'; the nearest valid key is 'partition'"),
    ("nodes: two", "cluster.yaml: nodes: expected a whole number, found 'two'"),
    ("cluster: pbs", "cluster.yaml: cluster: expected one of local, slurm, found 'pbs'"),
    ("partition: [a]", "cluster.yaml: partition: expected one value, found ['a']"),
    ("sbatch: exclusive", "cluster.yaml: sbatch: expected NAME: VALUE for each option, found 'exclusive'"),
    ("setup: module load x", "cluster.yaml: setup: expected a list of shell lines, found 'module load x'"),
    ("- nodes", "cluster.yaml: expected lines KEY: VALUE, found list"),
    ("a: [", "cluster.yaml is not YAML: while parsing"),
    ("nodes: 1\nsbatch: {a: 1, a: 2}", "cluster.yaml is not YAML: line 2: 'a' is there a second time"),
    ("gpus-per-node: 1\ngpus_per_node: 2", "cluster.yaml: gpus_per_node is given twice"),
])
def test_mistakes__are_named(here, text, why):
    (here / "cluster.yaml").write_text(text)
    with pytest.raises(UserError) as refused:
        parse(["--demo", "--cluster", "slurm", "--time", "60"])
    assert str(refused.value).startswith(why)


@pytest.mark.parametrize(("words", "why"), [
    ("--cluster-file no.yaml", "--cluster-file no.yaml: no such file; benchmarks/cluster.example.yaml is an example"),
    ("--gpus-per-node 2", "--gpus-per-node needs --cluster slurm, found --cluster local (GPUs of this machine: --gpu"),
    ("--time 60", "--time needs --cluster slurm, found --cluster local (GPUs of this machine: --gpus)"),
    ("--max-jobs 2", "--max-jobs needs --cluster slurm, found --cluster local (GPUs of this machine: --gpus)"),
    ("--cluster slurm --time 60 --gpus 2", "--gpus 2 is for this machine: with --cluster slurm say --gpus-per-node N"),
    ("--cluster slurm --time 60 --max-jobs 0", "--max-jobs must be at least 1, found 0"),
    ("--cluster slurm --time 60 --sbatch array=1", "--sbatch dependency and array are what the graph itself sets: "),
    ("--cluster slurm", "--cluster slurm needs --time"),
])
def test_words_that_do_not_fit__are_refused(words, why):
    with pytest.raises(UserError) as refused:
        parse(["--demo", *words.split()])
    assert str(refused.value).startswith(why)
