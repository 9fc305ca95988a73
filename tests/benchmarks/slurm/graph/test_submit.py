"""What is handed to sbatch, which a stand-in takes: no Slurm is needed to see what would be asked of one."""

import json
import os
from pathlib import Path

import pytest
import submitit

from benchmarks.options.run_options import parse
from benchmarks.slurm import job_graph, launch
from benchmarks.slurm.stage_job import StageJob
from pretrain import ROOT
from pretrain.common.errors import UserError
from tests.benchmarks.slurm.graph.conftest import planned

PRETRAINING = ("--tasks", "none", "--cluster", "slurm", "--partition", "gpu", "--account", "lab", "--nodes", "2",
               "--gpus-per-node", "2", "--mem-gb", "64", "--time", "1-0", "--sbatch", "constraint=a100|h100",
               "--setup", "module load cuda")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """srun, and an sbatch that keeps what it gets."""
    place = tmp_path / "stand in"
    place.mkdir()
    (place / "srun").write_text("#!/bin/sh\n")
    (place / "sbatch").write_text(f"""#!/bin/sh
cd '{place}'; n=$(ls | grep -c '^file'); cp "$1" "file$n"; env > environment
echo "Submitted batch job $((4711 + n))"\n""")
    for name in ("srun", "sbatch"):
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place


@pytest.mark.parametrize(("workers", "cpus"), [("auto", 5), ("7", 8)])
def test_resources__cores_for_a_pretraining_that_leaves_its_loaders_to_the_machine(words, workers, cpus):
    plan = planned(parse(words(*PRETRAINING, methods="clove", pretrain__workers=workers)))
    assert job_graph.resources("pretrain", plan).cpus == cpus


def test_submit__hands_over_what_was_asked_for_and_writes_it_down(stand_in, words, monkeypatch):
    for name, value in {"SLURM_JOB_ID": "1", "SBATCH_PARTITION": "other", "SCONTROL_LOCAL": "1", "RANK": "3",
                        "SLURM_CONF": "/etc/s.conf", "PYTHONPATH": f"{ROOT}:/lib of mine"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plan = planned(parse(words(*PRETRAINING, methods="clove", pretrain__workers="3")))
    submitted = job_graph.submit(plan)
    assert [record.stage for record in submitted.records] == ["pretrain-clove", "convert-clove", "tables"]
    lines = (stand_in / "file0").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert asked >= {"--partition=gpu", "--account=lab", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2",
                     "--cpus-per-task=4", "--mem=64GB", "--time=1440", "--signal=USR2@120", "--requeue",
                     "--open-mode=append", f"--comment=pretrain-clove:{Path(submitted.folder).name}",
                     "--constraint='a100|h100'", "--job-name=pretrain-clove"}
    setup = lines.index("module load cuda")
    assert lines[setup + 1:setup + 4] == [f"export PYTHONPATH='{submitted.code}:/lib of mine'",
                                          "export PYTHONSAFEPATH=1", "export OMP_NUM_THREADS=4"]
    srun = next(line for line in lines if line.startswith("srun -"))
    assert "--kill-on-bad-exit=1 --cpus-per-task=4 " in srun
    environment = dict(line.partition("=")[::2] for line in (stand_in / "environment").read_text().splitlines())
    assert environment["SLURM_CONF"] == "/etc/s.conf"
    assert not {"SLURM_JOB_ID", "SBATCH_PARTITION", "SCONTROL_LOCAL", "RANK"} & set(environment)
    assert os.environ["RANK"] == "3" and os.environ["SCONTROL_LOCAL"] == "1"
    folder, code = Path(submitted.folder), Path(submitted.code)
    written = json.loads((folder / "submitted.json").read_text())
    assert [record["job_id"] for record in written["records"]] == ["4711", "4712", "4713"]
    job = submitit.core.utils.DelayedSubmission.load(folder / "4711_submitted.pkl").function
    assert job == StageJob("pretrain-clove", folder, folder / "pretrain-clove", code)
    assert (code / "pretrain" / "train.py").read_bytes() == (ROOT / "pretrain" / "train.py").read_bytes()

    jobs = plan.options.output / "jobs"  # a dry run shows the same file
    [unit, *_] = job_graph.units(plan.stages(), ["pretrain-clove", "convert-clove"])
    executor, _ = job_graph.executor_of(unit, plan, jobs / "TIME", jobs / "code-HASH", {})
    shown = launch.submission_text(executor).replace(str(jobs / "TIME"), str(folder))
    shown = shown.replace("--comment=pretrain-clove:TIME", f"--comment=pretrain-clove:{folder.name}")
    assert (stand_in / "file0").read_text() == shown.replace(str(jobs / "code-HASH"), str(code))


def test_submit__without_slurm_is_one_line_and_leaves_nothing(words, tmp_path, monkeypatch):
    plan = planned(parse(words(*PRETRAINING, methods="clove")))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError) as refused:
        job_graph.submit(plan)
    assert str(refused.value) == ("--cluster slurm: found no srun on the PATH; start this on a login node of the "
                                  "cluster, or use --cluster local")
    assert not plan.options.output.exists() or list(plan.options.output.iterdir()) == []
