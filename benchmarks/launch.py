"""Pretraining as a job: Slurm's, or one of the same kind on this machine. The only importer of submitit.

  python -m benchmarks.launch pretrain --cluster slurm --partition P --nodes 2 --gpus-per-node 8 --time 24:00:00 \\
      -- --recipe imagenet_200ep --data IMAGENET/train --output OUT

The words after -- are those of `python -m pretrain`. The job's files go to OUT/jobs, what was submitted to
OUT/submission.json.

In a job, benchmarks/job_signals.py owns the signals and hands the loop a function that says when to stop. A job that
comes back, by whatever way, starts this file's pickled `PretrainJob` again, which looks for the newest whole checkpoint
on disk. Nothing here waits for submitit's result(), which without accounting never comes.
"""

import argparse
import contextlib
import io
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import submitit
from submitit.helpers import Checkpointable, TorchDistributedEnvironment, clean_env, environment_variables

from benchmarks import cluster, snapshot
from benchmarks.cluster import TIMEOUTS, ClusterOptions
from benchmarks.follow import Ending, Submission, is_over, read_submission, state, wait
from benchmarks.job_signals import DEAF, GRACE, JobSignals
from pretrain import ROOT
from pretrain.config import Config
from pretrain.errors import UserError, run_cli
from pretrain.signals import COME_BACK, stop_signals
from transfer.tasks import VARIABLE as TASK_FILES


class Job(Checkpointable, ABC):
    """One process of a job. Restarted it goes on from the disk, so that it carries no state of its own:
    `checkpoint()`, inherited, hands in the same object again.

    `folder`: the job's own notes. `code`: where these very sources must come from.
    """

    folder: Path
    code: Path

    @abstractmethod
    def work(self, job: submitit.JobEnvironment, signals: JobSignals) -> Ending:
        """Do it. An ending with 75 or 143 means: asked to stop, and saved."""

    def __call__(self) -> str:
        """Returns what came out; ends the process, with the exit codes of `python -m pretrain`, otherwise."""
        job = submitit.JobEnvironment()
        (self.folder / f"ended_{job.global_rank}.json").unlink(missing_ok=True)
        with JobSignals() as signals:
            try:
                ending = self._checked(job, signals)
            except Exception as error:  # ours to mend: submitit prints the traceback
                words = " ".join(f"{type(error).__name__}: {error}".split())
                Ending(1, words, job.global_rank).write(self.folder)
                raise
            if ending.exit_code == 0:
                return ending.message
            if ending.exit_code in (COME_BACK, 128 + signal.SIGTERM):
                ending = self._leave(job, signals, ending)
            print(f"error: {ending.message}", file=sys.stderr, flush=True)
            ending.write(self.folder)
            sys.exit(ending.exit_code)

    def _checked(self, job: submitit.JobEnvironment, signals: JobSignals) -> Ending:
        try:
            here = Path(__file__).resolve().parent.parent
            if here != self.code.resolve():
                raise UserError(f"expected the sources of the submission, {self.code}, found those of {here}: a "
                                "--setup line or the node's own start-up files change PYTHONPATH")
            return self.work(job, signals)
        except UserError as error:
            return Ending(2, str(error), job.global_rank)

    def _leave(self, job: submitit.JobEnvironment, signals: JobSignals, ending: Ending) -> Ending:
        """After a save: come back if that is wanted; returns how it ended if not."""
        ending.write(self.folder)  # now: what follows may be SIGKILL
        grace = GRACE if job.cluster == "slurm" else 0.0
        if ending.exit_code != COME_BACK and not signals.wait_for_usr2(grace):
            return ending
        print(ending.message, flush=True)
        try:
            (self.folder / f"ended_{job.global_rank}.json").unlink()
            signals.requeue()
        except (submitit.core.utils.UncompletedJobError, subprocess.SubprocessError, OSError) as error:
            return Ending(COME_BACK, f"saved, but the job could not be requeued ({' '.join(str(error).split())}); "
                                     "submitted again with the same words it goes on", job.global_rank)
        sys.exit(0)  # another process than the first: it must not look like a failure, nor like a result


@dataclass(frozen=True)
class PretrainJob(Job):
    """One process of a pretraining job."""

    config: Config
    data: Path
    output: Path
    folder: Path
    code: Path

    def work(self, job: submitit.JobEnvironment, signals: JobSignals) -> Ending:
        """Returns the backbone's path, or how it ended."""
        from pretrain.__main__ import run  # with torch, which reads the environment when it starts
        from pretrain.train import Stopped, TrainingFailed

        _rendezvous(job)
        try:
            return Ending(0, str(run(self.config, self.data, self.output, signals.stop)))
        except Stopped as stopped:
            return Ending(stopped.exit_code, str(stopped), job.global_rank)
        except TrainingFailed as failed:
            return Ending(3, str(failed), job.global_rank)


def _rendezvous(job: submitit.JobEnvironment) -> None:
    """Sets what torch.distributed reads. Every process keeps the sight of all GPUs of its node: LOCAL_RANK picks one.

    The port comes from the job's number, and lies below those that systems give to outgoing connections.
    """
    number = int("".join(filter(str.isdigit, job.job_id)))
    os.environ["MASTER_PORT"] = str(10_000 + number % 20_000)
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def submit(config: Config, data: Path, output: Path, options: ClusterOptions) -> Submission:
    """Hand the pretraining over and write OUTPUT/submission.json. Raises `UserError` for all that can be told now."""
    data, output = data.absolute(), output.absolute()
    _check(config, output, options)
    stamp = datetime.now(UTC)
    folder = output / "jobs" / f"{stamp:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"  # new: submitit finds old results
    code = snapshot.take(ROOT, output / "jobs", code_version())
    try:
        folder.mkdir()
        executor, environment = _executor(config, output, folder, code, options)
        [job] = hand_over(executor, [PretrainJob(config, data, output, folder, code)], environment)
    except UserError:
        _tidy(output, folder, code)
        raise
    submission = Submission(job.job_id, options.cluster, str(output), str(folder), str(code),
                            stamp.isoformat(timespec="seconds"), config.hash(), dict(executor.parameters))
    submission.write()
    return submission


def sbatch_file(config: Config, output: Path, options: ClusterOptions) -> str:
    """The file that submitit would hand to sbatch; JOB stands for the folders made at submission."""
    jobs = output.absolute() / "jobs"
    executor, _ = _executor(config, output, jobs / "JOB", jobs / "code-HASH", options)
    return submission_text(executor)


def submission_text(executor: submitit.SlurmExecutor, array: int = 1) -> str:
    """The file that sbatch would get from this executor, for an array of so many jobs."""
    several = {"map_count": array} if array > 1 else {}
    before = dict(executor.parameters)
    executor.parameters.update(several)
    try:
        return executor._make_submission_file_text(executor._submitit_command_str, "")
    finally:
        executor.parameters = before


def refuse_path(output: Path) -> None:
    """UserError for a path with a letter that Slurm does not leave as it is."""
    for letter, why in (("%", "Slurm and submitit read % as a placeholder"), ("\\", "Slurm drops backslashes")):
        if letter in str(output):
            raise UserError(f"--output {output}: {why}; choose a path without it")


def _check(config: Config, output: Path, options: ClusterOptions) -> None:
    """What would only show when the job has waited for its nodes."""
    from pretrain.data import images_at_once  # imports torch

    refuse_path(output)
    images_at_once(config.train.batch_size, config.runtime.device_batch, options.processes)
    before = read_submission(output)
    if before is not None and not is_over(word := state(before)):
        end = f"scancel {before.job_id}" if before.cluster == "slurm" else f"kill {before.job_id}"
        raise UserError(f"job {before.job_id} works in {output} ({word}): wait for it, end it with `{end}`, or choose "
                        "another --output")


def code_version() -> dict[str, str | bool | None]:
    from transfer.provenance import code_version  # imports torch

    return code_version()


def _tidy(output: Path, folder: Path, code: Path) -> None:
    """Leave nothing of a submission that was refused."""
    shutil.rmtree(folder)
    if read_submission(output) is None:
        shutil.rmtree(code)
        for place in (folder.parent, output):
            with contextlib.suppress(OSError):  # there is something else in it
                place.rmdir()


def _executor(
    config: Config, output: Path, folder: Path, code: Path, options: ClusterOptions
) -> tuple[submitit.core.core.PicklingExecutor, dict[str, str]]:
    """submitit's executor, and the environment that its job needs."""
    cpus = options.cpus_per_task or config.runtime.workers + 1
    if options.cluster == "local":
        executor = submitit.LocalExecutor(folder, max_num_timeout=TIMEOUTS, python=_python())
        executor.update_parameters(**options.for_local())
        return executor, _environment(code, cpus)
    return slurm_executor(f"pretrain-{output.name}", folder, code, cpus, options)


def _environment(code: Path, cpus: int) -> dict[str, str]:
    others = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and place != str(ROOT)]
    environment = {"PYTHONPATH": os.pathsep.join([str(code), *others]), "PYTHONSAFEPATH": "1",
                   "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cpus))}
    own_tasks = [os.path.abspath(place) for place in os.environ.get(TASK_FILES, "").split(os.pathsep) if place]
    if own_tasks:  # a job may start in another folder, or without the environment
        environment[TASK_FILES] = os.pathsep.join(own_tasks)
    return environment


def _python() -> str:
    return f"{DEAF} {shlex.quote(sys.executable)}"


def slurm_executor(
    name: str, folder: Path, code: Path, cpus: int, options: ClusterOptions, threads: int | None = None,
    **changes: object
) -> tuple[submitit.SlurmExecutor, dict[str, str]]:
    """An executor for jobs called `name` with `cpus` CPUs a task, and the environment that they need.

    `threads`: of one process, where a task starts several (default: `cpus`). `changes`: over the parameters that
    `options` makes.
    """
    environment = _environment(code, threads or cpus)
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=TIMEOUTS, python=_python())
    except RuntimeError:
        raise UserError("--cluster slurm: found no srun on the PATH; start this on a login node of the cluster, or use "
                        "--cluster local") from None
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    executor.update_parameters(**options.for_slurm(name, cpus, exports) | changes)
    return executor, environment


def hand_over(
    executor: submitit.core.core.PicklingExecutor, jobs: list[Job], environment: dict[str, str]
) -> list[submitit.Job]:
    """Submit, several as an array, with no trace of a job that we may be in ourselves; what sbatch says comes as one
    line."""
    settings = os.environ.get("SLURM_CONF")
    # Here Ctrl-C is passed on as SIGTERM, so that a local job saves; what is ignored stays so in its processes.
    ctrl_c = signal.signal(signal.SIGINT, signal.SIG_IGN) if isinstance(executor, submitit.LocalExecutor) else None
    try:
        with clean_env(), environment_variables(**environment | ({"SLURM_CONF": settings} if settings else {})), \
                contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what the error says too
            return [executor.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        lines = [line.partition("error: ")[2] or line for line in str(error).splitlines() if line.strip()]
        raise UserError(f"sbatch refused the job: {'; '.join(lines)}") from None
    finally:
        if ctrl_c is not None:
            signal.signal(signal.SIGINT, ctrl_c)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.launch",
        usage="python -m benchmarks.launch pretrain [options] -- WORDS OF python -m pretrain",
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("stage", choices=("pretrain",))
    cluster.add_options(parser)
    parser.add_argument("--wait", action="store_true",
                        help="follow the job to its end and leave with its exit code (--cluster local always does)")
    parser.add_argument("--dry-run", action="store_true", help="print the file that sbatch would get, submit nothing")
    return parser


def main() -> int:
    from pretrain.__main__ import parse

    words = sys.argv[1:]
    if "--" not in words and "--help" not in words and "-h" not in words:
        raise UserError("expected the words of python -m pretrain after --, found no --")
    split = words.index("--") if "--" in words else len(words)
    args = build_parser().parse_args(words[:split])
    options = cluster.read_options(args)
    run, config = parse(words[split + 1:])
    if args.dry_run:
        if options.cluster == "local":
            raise UserError("--dry-run shows a file for sbatch: it needs --cluster slurm")
        print(sbatch_file(config, run.output, options))
        return 0
    if not run.data.is_dir():
        print(f"warning: {run.data} is no folder here; the job will look for it on its nodes", file=sys.stderr)
    submission = submit(config, run.data, run.output, options)
    print(f"job {submission.job_id}: {options.processes} processes; its log is {submission.log()}", flush=True)
    if options.cluster == "slurm" and not args.wait:
        print(f"follow it: tail -f {shlex.quote(str(submission.log()))}   state: squeue -j {submission.job_id}   "
              f"end it: scancel {submission.job_id}")
        return 0
    with stop_signals() as stop:
        ending = wait(submission, stop, lambda: options.cluster == "slurm" or _end(submission))
        asked = stop()
    if ending.exit_code:
        print(f"error: job {submission.job_id}: {ending.message}", file=sys.stderr)
    else:
        print(ending.message)
    # A local job is told to save by SIGTERM, whatever we were told.
    return asked if asked and ending.exit_code == 128 + signal.SIGTERM else ending.exit_code


def _end(submission: Submission) -> bool:
    """Ask a local job to save and leave; it is still to be waited for."""
    os.kill(int(submission.job_id), signal.SIGTERM)
    return False


if __name__ == "__main__":
    # Under its own name: what is pickled must be found again by the job.
    from benchmarks.launch import main as named_main

    run_cli(named_main)
