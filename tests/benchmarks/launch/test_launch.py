"""One process of a job, in this process; and what is handed to sbatch, which a stand-in takes."""

import json
import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import submitit

from benchmarks import job_signals
from benchmarks.cluster import ClusterOptions
from benchmarks.follow import Ending
from benchmarks.job_signals import JobSignals
from benchmarks.launch import PretrainJob, main, sbatch_file, submit
from benchmarks.options import ROOT
from pretrain.drill import logged_steps, saved_steps
from pretrain.errors import UserError
from pretrain.trainer import Trainer

Uncompleted = submitit.core.utils.UncompletedJobError
USR2 = signal.SIGUSR2


@pytest.fixture
def in_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a local job of one process."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "left from somewhere")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "4711")


@pytest.fixture
def submitits():
    """The place of submitit's handler of SIGUSR2: calls are noted, and do what `answers` says, one after the other."""
    seen = SimpleNamespace(calls=0, answers=[SystemExit(144)])

    def handler(number, frame):
        seen.calls += 1
        answer = seen.answers.pop(0)
        if answer is not None:
            raise answer

    before = signal.signal(USR2, handler)
    yield seen
    signal.signal(USR2, before)


@pytest.fixture
def make_job(tiny, photos, tmp_path):
    def make(**changes) -> PretrainJob:
        (tmp_path / "jobs").mkdir(exist_ok=True)
        values = {"config": tiny(epochs=1), "data": photos, "output": tmp_path / "out", "folder": tmp_path / "jobs",
                  "code": ROOT}
        return PretrainJob(**values | changes)

    return make


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch):
    """signal_at(step, number): the process gets a signal when that step, from 0, begins."""

    def install(step: int, number: int) -> None:
        original = Trainer.step

        def stepping(self, at, batches):
            if at == step:
                signal.raise_signal(number)
            return original(self, at, batches)

        monkeypatch.setattr(Trainer, "step", stepping)

    return install


def test_job__told_to_save_is_requeued_by_submitit_and_goes_on(
    in_job, submitits, make_job, signal_at, tmp_path, capfd
):
    signal_at(0, USR2)
    job = pickle.loads(pickle.dumps(make_job()))
    with pytest.raises(SystemExit) as left:
        job()
    assert left.value.code == 144 and submitits.calls == 1  # submitit's own way out, taken after the save
    assert saved_steps(tmp_path / "out") == [1] and list((tmp_path / "jobs").iterdir()) == []
    assert job.checkpoint().function is job
    assert job() == str(tmp_path / "out" / "backbone.safetensors")
    assert "goes on from step 1 of 2" in capfd.readouterr().out
    assert logged_steps(tmp_path / "out") == [1, 2] and submitits.calls == 1


def test_job__stopped_by_sigterm_leaves_with_143_and_says_so(in_job, submitits, make_job, signal_at, tmp_path, capfd):
    signal_at(0, signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        make_job()()
    assert left.value.code == 143 and submitits.calls == 0
    told = "stopped after step 1, saved; start again with the same words to go on"
    note = json.loads((tmp_path / "jobs" / "ended_0.json").read_text())
    assert note == {"exit_code": 143, "message": told, "rank": 0}
    assert f"error: {told}" in capfd.readouterr().err and saved_steps(tmp_path / "out") == [1]


def test_job__a_users_mistake_is_one_line_and_exit_code_2(in_job, submitits, make_job, tmp_path, capfd):
    with pytest.raises(SystemExit) as left:
        make_job(data=tmp_path / "absent")()
    printed = capfd.readouterr()
    assert left.value.code == 2 and "Traceback" not in printed.err
    assert printed.err.startswith(f"error: image folder {tmp_path / 'absent'} does not exist")


def test_job__other_sources_than_those_submitted_are_refused(in_job, submitits, make_job, tmp_path, capfd):
    with pytest.raises(SystemExit) as left:
        make_job(code=tmp_path)()
    assert left.value.code == 2
    assert capfd.readouterr().err == (
        f"error: expected the sources of the submission, {tmp_path}, found those of {ROOT}: a --setup line or the "
        "node's own start-up files change PYTHONPATH\n")


def test_job__our_own_mistake_keeps_its_traceback_and_leaves_a_note(
    in_job, submitits, make_job, tmp_path, monkeypatch
):
    def broken(*_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(Trainer, "step", broken)
    with pytest.raises(RuntimeError, match="two"):
        make_job()()
    assert json.loads((tmp_path / "jobs" / "ended_0.json").read_text()) == {
        "exit_code": 1, "message": "RuntimeError: two lines", "rank": 0}


def test_job__meets_the_others_at_a_port_of_its_own_number(in_job, submitits, make_job, tmp_path, capfd):
    with pytest.raises(SystemExit):
        make_job(data=tmp_path / "absent")()
    assert {name: os.environ[name] for name in ("MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK")} == {
        "MASTER_PORT": "14711", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def test_deaf__a_process_without_handlers_outlives_the_jobs_signals_and_then_hears_them():
    program = ("import os, signal; [os.kill(os.getpid(), s) for s in (signal.SIGUSR2, signal.SIGTERM)]; "
               "signal.signal(signal.SIGUSR2, lambda *_: print('heard')); os.kill(os.getpid(), signal.SIGUSR2)")
    command = [*shlex.split(job_signals.DEAF), sys.executable, "-c", program, "a 'word'"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "heard\n"


def leave(job: PretrainJob, code: int, rank: int = 0, cluster: str = "slurm", received: tuple[int, ...] = ()):
    """The end of a process that has saved: its `Ending`, or the code that it exits with."""
    with JobSignals() as signals:
        signals.received.update(received)
        try:
            return job._leave(SimpleNamespace(global_rank=rank, cluster=cluster), signals, Ending(code, "saved", rank))
        except SystemExit as left:
            return left.code


def test_leave__other_processes_than_the_first_end_without_a_result(submitits, make_job, tmp_path):
    submitits.answers = [None]  # submitit's handler returns in them
    assert leave(make_job(), 75, rank=1) == 0
    assert list((tmp_path / "jobs").iterdir()) == []


def test_leave__a_controller_that_was_away_is_asked_again(submitits, make_job, monkeypatch):
    monkeypatch.setattr(job_signals, "REQUEUE_PAUSE", 0.0)
    away = subprocess.CalledProcessError(1, ["scontrol", "requeue", "7"])
    submitits.answers = [away, subprocess.TimeoutExpired("scontrol", 60), SystemExit(255)]
    assert leave(make_job(), 75) == 255
    submitits.answers = [away] * job_signals.REQUEUE_TRIES
    assert leave(make_job(), 75) == Ending(
        75, f"saved, but the job could not be requeued ({away}); submitted again with the same words it goes on")


def test_leave__submitit_has_had_enough(submitits, make_job):
    submitits.answers = [Uncompleted("Job not requeued because: timed-out too many times.")]
    assert leave(make_job(), 75).message == (
        "saved, but the job could not be requeued (Job not requeued because: timed-out too many times.); submitted "
        "again with the same words it goes on")


def test_leave__after_sigterm_a_preemption_may_still_say_so(submitits, make_job, tmp_path):
    """Slurm sends SIGTERM first; a process that left at once would end the job for good."""
    timer = threading.Timer(0.3, os.kill, (os.getpid(), USR2))
    timer.start()
    assert leave(make_job(), 143, received=(signal.SIGTERM,)) == 144
    timer.join()
    assert submitits.calls == 1 and list((tmp_path / "jobs").iterdir()) == []


def test_leave__after_sigterm_alone_the_note_is_there_before_the_kill(submitits, make_job, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(job_signals.JobSignals, "wait_for_usr2",
                        lambda _, seconds: seen.append((seconds, (tmp_path / "jobs" / "ended_0.json").is_file())))
    assert leave(make_job(), 143) == Ending(143, "saved")
    assert leave(make_job(), 143, cluster="local") == Ending(143, "saved")
    assert seen == [(job_signals.GRACE, True), (0.0, True)] and submitits.calls == 0


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """srun, and an sbatch that keeps what it gets: no Slurm is needed to see what would be asked of one."""
    place = tmp_path / "stand in"
    place.mkdir()
    (place / "srun").write_text("#!/bin/sh\n")
    (place / "sbatch").write_text(f"""#!/bin/sh\ncd '{place}'; cp "$1" file; env > environment
echo 'Submitted batch job 4711'\n""")
    for name in ("srun", "sbatch"):
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place


def test_submit__hands_over_what_was_asked_for_and_writes_it_down(stand_in, tiny, photos, tmp_path, monkeypatch):
    for name, value in {"SLURM_JOB_ID": "1", "SBATCH_PARTITION": "other", "RANK": "3", "SLURM_CONF": "/etc/s.conf",
                        "PYTHONPATH": f"{ROOT}:/lib of mine"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OMP_NUM_THREADS")
    options = ClusterOptions("slurm", "gpu", "lab", 2, 2, None, None, 64, 1440, 120, (("constraint", "a100|h100"),),
                             ("module load cuda",))
    submission = submit(tiny(workers=3), photos, tmp_path / "out", options)
    lines = (stand_in / "file").read_text().splitlines()
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert asked >= {"--partition=gpu", "--account=lab", "--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2",
                     "--cpus-per-task=4", "--mem=64GB", "--time=1440", "--signal=USR2@120", "--requeue",
                     "--open-mode=append", "--constraint='a100|h100'",
                     "--job-name=pretrain-out"}
    setup = lines.index("module load cuda")
    assert lines[setup + 1:setup + 4] == [f"export PYTHONPATH='{submission.code}:/lib of mine'",
                                          "export PYTHONSAFEPATH=1", "export OMP_NUM_THREADS=4"]
    srun = next(line for line in lines if line.startswith("srun"))
    assert "--kill-on-bad-exit=1 --cpus-per-task=4 " in srun
    environment = dict(line.partition("=")[::2] for line in (stand_in / "environment").read_text().splitlines())
    assert environment["SLURM_CONF"] == "/etc/s.conf"
    assert not {"SLURM_JOB_ID", "SBATCH_PARTITION", "RANK"} & set(environment)
    assert os.environ["RANK"] == "3"
    written = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert written == json.loads(json.dumps(vars(submission)))
    assert written["job_id"] == "4711" and written["parameters"]["partition"] == "gpu"
    job = submitit.core.utils.DelayedSubmission.load(Path(submission.folder) / "4711_submitted.pkl").function
    assert job == PretrainJob(tiny(workers=3), photos, tmp_path / "out", Path(submission.folder), Path(submission.code))
    assert (job.code / "pretrain" / "train.py").read_bytes() == (ROOT / "pretrain" / "train.py").read_bytes()


def test_dry_run__prints_the_file_and_leaves_nothing(stand_in, words, photos, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["launch", "pretrain", "--cluster", "slurm", "--time", "2-0", "--nodes", "2",
                                     "--tasks-per-node", "2", "--dry-run", "--", *words(photos, output)])
    assert main() == 0
    printed = capsys.readouterr().out
    assert "#SBATCH --time=2880" in printed and "#SBATCH --ntasks-per-node=2" in printed and "srun " in printed
    assert not output.exists() and not (stand_in / "file").exists()


@pytest.mark.parametrize(("given", "why"), [
    ("pretrain", "expected the words of python -m pretrain after --, found no --"),
    ("pretrain --dry-run -- --data D --output O", "--dry-run shows a file for sbatch: it needs --cluster slurm"),
    ("pretrain --cluster slurm --time 9 -- --data D --output O",
     "--cluster slurm: found no srun on the PATH; start this on a login node of the cluster, or use --cluster local"),
    ("pretrain --tasks-per-node 3 -- --data D --output O",
     "batch_size must be a multiple of the number of processes, found 2048 and 3"),
    ("pretrain -- --data D --output O%j",
     "--output {}/O%j: Slurm and submitit read % as a placeholder; choose a path without it"),
])
def test_words__what_cannot_be_submitted_is_told_at_once(given, why, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["launch", *given.split()])
    with pytest.raises(UserError) as refused:
        main()
    assert str(refused.value) == why.format(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sbatch_file__is_what_a_submission_hands_over(stand_in, tiny, photos, tmp_path):
    options = ClusterOptions("slurm", minutes=30)
    shown = sbatch_file(tiny(), tmp_path / "out", options)
    submission = submit(tiny(), photos, tmp_path / "out", options)
    assert (stand_in / "file").read_text() == shown.replace(f"{tmp_path}/out/jobs/JOB", submission.folder).replace(
        f"{tmp_path}/out/jobs/code-HASH", submission.code)


def test_submitit__is_imported_by_launch_alone():
    importers = [path.name for package in ("pretrain", "transfer", "benchmarks")
                 for path in (ROOT / package).rglob("*.py")
                 if any(line.lstrip().startswith(("import submitit", "from submitit"))
                        for line in path.read_text(encoding="utf-8").splitlines())]
    assert importers == ["launch.py"]
