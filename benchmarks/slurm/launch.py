"""One process of a Slurm job, and how jobs are handed over. The only importer of submitit.

In a job, benchmarks/slurm/job_signals.py owns the signals and hands the work a function that says when to stop.
A job that comes back, by whatever way, starts its pickled `Job` again, which goes on from what is on the disk.
Nothing here waits for submitit's result(), which without accounting never comes.
"""

import contextlib
import io
import os
import shlex
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

import submitit
from submitit.helpers import Checkpointable, TorchDistributedEnvironment, clean_env, environment_variables

from benchmarks.options.cluster import TIMEOUTS, ClusterOptions
from benchmarks.slurm.job_signals import DEAF, GRACE, JobSignals
from benchmarks.slurm.jobs import Ending
from pretrain import ROOT
from pretrain.common.errors import UserError
from pretrain.common.signals import COME_BACK
from pretrain.config import Config
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
                ending = self._leave(signals, ending)
            print(f"error: {ending.message}", file=sys.stderr, flush=True)
            ending.write(self.folder)
            sys.exit(ending.exit_code)

    def _checked(self, job: submitit.JobEnvironment, signals: JobSignals) -> Ending:
        try:
            here = Path(__file__).resolve().parents[2]
            if here != self.code.resolve():
                raise UserError(f"expected the sources of the submission, {self.code}, found those of {here}: a "
                                "--setup line or the node's own start-up files change PYTHONPATH")
            return self.work(job, signals)
        except UserError as error:
            return Ending(2, str(error), job.global_rank)

    def _leave(self, signals: JobSignals, ending: Ending) -> Ending:
        """After a save: come back if that is wanted; returns how it ended if not."""
        ending.write(self.folder)  # now: what follows may be SIGKILL
        if ending.exit_code != COME_BACK and not signals.wait_for_usr2(GRACE):
            return ending
        print(ending.message, flush=True)
        try:
            (self.folder / f"ended_{ending.rank}.json").unlink()
            signals.requeue()
        except (submitit.core.utils.UncompletedJobError, subprocess.SubprocessError, OSError) as error:
            return Ending(COME_BACK, f"saved, but the job could not be requeued ({' '.join(str(error).split())}); "
                                     "`python -m benchmarks retry --failed` resumes it", ending.rank)
        sys.exit(0)  # another process than the first: it must not look like a failure, nor like a result


def run_pretraining(
    config: Config, data: Path, output: Path, job: submitit.JobEnvironment, signals: JobSignals
) -> Ending:
    """One process of a pretraining, in this process; says the backbone's path, or how it ended."""
    from pretrain.__main__ import run  # with torch, which reads the environment when it starts
    from pretrain.train import Stopped, TrainingFailed

    _rendezvous(job)
    try:
        return Ending(0, str(run(config, data, output, signals.stop)))
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


def code_version() -> dict[str, str | bool | None]:
    from transfer.records.provenance import code_version  # imports torch

    return code_version()


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
    executor: submitit.SlurmExecutor, jobs: list[Job], environment: dict[str, str]
) -> list[submitit.Job]:
    """Submit, several as an array, with no trace of a job that we may be in ourselves; what sbatch says comes as one
    line."""
    settings = os.environ.get("SLURM_CONF")
    try:
        with clean_env(), environment_variables(**environment | ({"SLURM_CONF": settings} if settings else {})), \
                contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit prints what the error says too
            return [executor.submit(job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        lines = [line.partition("error: ")[2] or line for line in str(error).splitlines() if line.strip()]
        raise UserError(f"sbatch refused the job: {'; '.join(lines)}") from None
