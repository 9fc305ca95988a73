"""One process of a Slurm job, and how jobs are submitted. The only importer of submitit.

In a job, benchmarks/slurm/job_signals.py owns the signals and hands the work a function that says
when to stop. A job that is requeued, in whatever way, starts its pickled `Job` again, which
resumes from what is on the disk. Nothing here waits for submitit's result(), which without
accounting never comes.
"""

import contextlib
import copy
import io
import os
import shlex
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import submitit
from submitit.helpers import Checkpointable, TorchDistributedEnvironment, clean_env, environment_variables

from benchmarks.options.cluster import TIMEOUTS, ClusterOptions
from benchmarks.slurm import commands, jobs, start_again
from benchmarks.slurm.job_signals import DEAF, GRACE, JobSignals
from benchmarks.slurm.jobs import Ending
from pretrain import ROOT
from pretrain.common.atomic import atomic_path
from pretrain.common.errors import KILLED, UserError, refuse
from pretrain.common.signals import COME_BACK, FROM_OUTSIDE
from pretrain.common.stalls import ended_when_stalled
from pretrain.config import Config
from transfer.tasks import VARIABLE as TASK_FILES


@dataclass(frozen=True)
class Resources:
    """What a job asks for: CPUs a task, threads of a process, of which a task may start several,
    GPUs a node."""

    options: ClusterOptions
    cpus: int
    threads: int
    gpus: int = 0


class Job(Checkpointable, ABC):
    """One process of a job. Restarted it resumes from the disk, so that it carries no state of
    its own: `checkpoint()`, inherited, submits the same object again.

    `folder`: the job's own notes. `code`: where these very sources must come from.
    """

    folder: Path
    code: Path

    @abstractmethod
    def work(self, job: submitit.JobEnvironment, signals: JobSignals) -> Ending:
        """Run the job. An ending with 75 or 143 means: asked to stop, and saved."""

    def __call__(self) -> str:
        """Returns the message of success; otherwise exits with a code of `clove pretrain`."""
        job = submitit.JobEnvironment()
        (self.folder / f"ended_{job.global_rank}.json").unlink(missing_ok=True)
        with JobSignals() as signals:
            try:
                ending = self._checked(job, signals)
            except Exception as error:  # a bug of ours: submitit prints the traceback
                message = " ".join(f"{type(error).__name__}: {error}".split())
                Ending(1, message, job.global_rank).write(self.folder)
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
            refuse((here != self.code.resolve(),
                    f"expected the sources of the submission, {self.code}, found those of {here}: a --setup line "
                    "or the node's own start-up files change PYTHONPATH"))
            return self.work(job, signals)
        except UserError as error:
            return Ending(error.exit_code, str(error), job.global_rank)

    def _leave(self, signals: JobSignals, ending: Ending) -> Ending:
        """After a save: requeue if Slurm asked for it; otherwise returns how the job ended."""
        ending.write(self.folder)  # now: what follows may be SIGKILL
        if ending.exit_code != COME_BACK and not signals.wait_for_usr2(GRACE):
            return ending
        print(ending.message, flush=True)
        try:
            (self.folder / f"ended_{ending.rank}.json").unlink()
            (self.folder / jobs.AGAIN).unlink(missing_ok=True)  # it got on
            signals.requeue()
        except (submitit.core.utils.UncompletedJobError, subprocess.SubprocessError, OSError) as error:
            why, what = " ".join(str(error).split()), ending.message.partition(";")[0]
            message = f"{what}, but the job could not be requeued ({why}); `clove retry --failed` resumes it"
            return Ending(COME_BACK, message, ending.rank)
        sys.exit(0)  # another process than the first: it must not look like a failure, nor like a result

    @contextlib.contextmanager
    def ended_when_stalled(self, rank: int, signals: JobSignals) -> Iterator[None]:
        """Inside, SIGTERM and SIGUSR2 end this process within seconds also where it waits in vain, which
        JobSignals alone would not hear; after SIGUSR2 the job is requeued."""
        def leave(code: int, message: str) -> int:
            ending = Ending(code, message, rank)
            if code == COME_BACK:
                try:
                    ending = self._leave(signals, ending)
                except SystemExit:  # requeued: srun would end the first process if another one left with a failure
                    return 0 if rank else code
            ending.write(self.folder)
            return ending.exit_code

        with ended_when_stalled(FROM_OUTSIDE, leave):
            yield


def run_pretraining(
    config: Config, data: Path, output: Path, job: submitit.JobEnvironment, signals: JobSignals
) -> Ending:
    """One process of a pretraining, in this process; the message is the backbone's path, or how
    it ended."""
    from pretrain.__main__ import run  # with torch, which reads the environment when it starts
    from pretrain.train import Stopped, TrainingFailed

    # Every process sees all GPUs of its node: LOCAL_RANK picks one. The port follows from the job's number, and lies
    # below those that systems give to outgoing connections.
    number = int(job.job_id.replace("_", ""))
    os.environ["MASTER_PORT"] = str(10_000 + number % 20_000)
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    try:
        return Ending(0, str(run(config, data, output, signals.stop)))
    except Stopped as stopped:
        return Ending(stopped.exit_code, str(stopped), job.global_rank)
    except TrainingFailed as failed:
        return Ending(3, str(failed), job.global_rank)


def _sbatch(_: submitit.SlurmExecutor, file: Path) -> list[str]:
    """sbatch with a limit of time that holds when its caller is gone too: no job appears later."""
    return ["timeout", "--foreground", "--signal=KILL", f"{jobs.SBATCH_LIMIT:g}", "sbatch", str(file)]


submitit.SlurmExecutor._make_submission_command = _sbatch  # not in a class of ours: submitit makes an array's itself


class NoAnswer(UserError):
    """sbatch gave none in time: Slurm may have the job, or get it still."""


def submission_text(executor: submitit.SlurmExecutor, array: int = 1) -> str:
    """The file that sbatch would get from this executor, for an array of so many jobs."""
    shown = copy.copy(executor)
    if array > 1:
        shown.parameters = executor.parameters | {"map_count": array}
    return shown._make_submission_file_text(shown._submitit_command_str, "")


def _environment(code: Path, threads: int) -> dict[str, str]:
    """Of a job, which may start in another folder, or without the present environment."""
    paths = [str(code)]
    for place in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if place not in ("", str(ROOT)):
            paths.append(place)
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1",
                   "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    own_tasks = os.environ.get(TASK_FILES)
    if own_tasks:
        places = [os.path.abspath(place) for place in own_tasks.split(os.pathsep) if place]
        environment[TASK_FILES] = os.pathsep.join(places)
    return environment


def slurm_executor(
    stages: list[str], folder: Path, code: Path, asked: Resources, **changes: object
) -> tuple[submitit.SlurmExecutor, dict[str, str]]:
    """An executor for a job of these stages, several as an array, and the environment that they
    need.

    `changes`: over the parameters that the options of the cluster make.
    """
    environment = _environment(code, asked.threads)
    try:
        executor = submitit.SlurmExecutor(
            folder, max_num_timeout=TIMEOUTS, python=f"{DEAF} {shlex.quote(sys.executable)}")
    except RuntimeError:
        raise UserError("--cluster slurm: found no srun on the PATH; start this on a login node of the cluster, "
                        "or use --cluster local") from None
    setup = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    setup += start_again.shell_lines(stages, folder, asked.options.retries, asked.options.processes,
                                     asked.options.signal_delay)
    parameters = asked.options.for_slurm(asked.cpus, setup)
    executor.update_parameters(**parameters | {"gpus_per_node": asked.gpus or None} | changes)
    return executor, environment


def submit_jobs(
    executor: submitit.SlurmExecutor, tasks: list[Job], environment: dict[str, str]
) -> list[submitit.Job]:
    """Submit, several as an array, with no trace of a job that we may run in ourselves.
    `UserError` with what sbatch says, `NoAnswer` when Slurm may have the job all the same."""
    others = os.environ.keys() - commands.environment().keys()
    access = {name: os.environ[name] for name in commands.ACCESS if name in os.environ}
    quiet = contextlib.redirect_stderr(io.StringIO())  # submitit prints what the error says too
    try:
        with clean_env(others), environment_variables(**environment, **access), quiet, executor.batch():
            return [executor.submit(task) for task in tasks]
    except submitit.core.utils.FailedJobError as error:
        lines = [line.partition("error: ")[2] or line for line in str(error).splitlines() if line.strip()]
        if getattr(error.__cause__, "returncode", None) == KILLED:
            raise NoAnswer(f"sbatch gave no answer in {jobs.SBATCH_LIMIT:g} seconds: the next command looks for its "
                           "job; try again in a minute") from None
        kind = NoAnswer if "timed out" in str(error) else UserError
        raise kind(f"sbatch refused the job: {'; '.join(lines)}") from None


def complete_submission(folder: Path, job_id: str, job: Job, minutes: int) -> None:
    """Write what a submitted job reads when it starts, unless it is there: submitit writes it after
    sbatch, and a job waits a minute for it."""
    path = submitit.core.utils.JobPaths(folder, job_id).submitted_pickle
    if path.exists():
        return
    delayed = submitit.core.utils.DelayedSubmission(job)
    delayed.set_timeout(minutes, TIMEOUTS)
    with atomic_path(path) as part:
        delayed.dump(part)
