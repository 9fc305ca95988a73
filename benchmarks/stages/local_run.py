"""The stages on this machine: each when what it needs is done, as many at once as --jobs says."""

import json
import os
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.options.run_options import Options
from benchmarks.stages.child_processes import Children
from benchmarks.stages.error_line import error_line
from benchmarks.stages.stage import FAILED, Progress, Stage, StageFailed, run_stage
from pretrain import ROOT
from pretrain.common.atomic import write_text

STANDS = "result stands"  # where the work is not, or not any more
OUTPUT = "output.txt"  # of a stage that runs beside others


class LocalRun:
    """One walk over the stages, in their order. `times` says of each what it took, or why it did
    not run; `stopped` are those that needed one of `failures`."""

    def __init__(self, options: Options, stages: list[Stage], stands: set[str]) -> None:
        self.options, self.stages, self.stands = options, stages, stands
        self.progress = Progress(options.output)
        self.environment = environment_of(options.jobs)
        self.times: dict[str, str] = {}
        self.failures: list[StageFailed] = []
        self.stopped: list[str] = []
        self._running: dict[Future, Stage] = {}

    def run(self) -> None:
        """Raises KeyboardInterrupt / SystemExit when asked to stop, after all that ran has ended."""
        waiting, settled = list(self.stages), set()
        with Children() as children, ThreadPoolExecutor(self.options.jobs) as pool:
            while self._running or (waiting and children.asked is None):
                ready = [stage for stage in waiting if set(stage.needs) <= settled]
                if ready and len(self._running) < self.options.jobs and children.asked is None:
                    stage = ready[0]
                    waiting.remove(stage)
                    if not self._begin(stage, pool, children):
                        settled.add(stage.name)
                    continue
                for future in wait(self._running, return_when=FIRST_COMPLETED).done:
                    settled.add(self._running[future].name)
                    self._end(future, children)

    def _begin(self, stage: Stage, pool: ThreadPoolExecutor, children: Children) -> bool:
        """Start it; False when there is nothing to start."""
        progress, options = self.progress, self.options
        key = progress.key(stage)
        if stage.name in self.stands and (key is None or progress.look(stage) is None):
            self.times[stage.name] = STANDS
            return False
        if key is None:
            self.stopped.append(stage.name)
            return False
        folder = stage.folder(options.output, key)
        if stage.name in options.rerun:
            set_aside(folder)
        stamp = progress.look(stage)
        if stamp is not None:
            if stage.finish is not None:
                stage.finish(folder, key)  # results may have been deleted or asked for elsewhere: cheap to write again
            self.times[stage.name] = f"{minutes(stamp['seconds'])}, done before"
            return False
        if not set(stage.gates) <= progress.hashes.keys():
            self.stopped.append(stage.name)
            return False
        run = partial(children.run, environment=self.environment)
        title = f"\n[{self.stages.index(stage) + 1}/{len(self.stages)}] {stage.name}"
        if options.jobs > 1:
            run.keywords["log"] = folder / OUTPUT
            title += f": its output goes to {folder / OUTPUT}"
        print(title, flush=True)
        started = pool.submit(run_stage, stage, options.output, key, dict(progress.folders), run)
        self._running[started] = stage
        return True

    def _end(self, future: Future, children: Children) -> None:
        stage = self._running.pop(future)
        try:
            stamp = future.result()
        except StageFailed as failure:
            if children.asked is None:
                self._note(failure)
                self.failures.append(failure)
            return
        self.progress.done(stage, stamp)
        self.times[stage.name] = minutes(stamp["seconds"])
        if self.options.jobs > 1:
            print(f"{stage.name}: done in {self.times[stage.name]}", flush=True)

    def _note(self, failure: StageFailed) -> None:
        """Say it, with the last lines of the stage's output where they were not seen, and write it
        into its folder."""
        log, message = failure.folder / OUTPUT, str(failure)
        if self.options.jobs > 1 and log.is_file():  # else an older run's
            error = error_line(log)
            if error:
                message = f"{failure.what}: {error}"
            print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]), file=sys.stderr)
        print(f"error: {failure}", file=sys.stderr, flush=True)
        write_text(failure.folder / FAILED, json.dumps({"exit_code": failure.code, "message": message}) + "\n")


def environment_of(jobs: int) -> dict[str, str]:
    """What stages run in, `jobs` of them at once."""
    # OpenMP's threads by default spin for milliseconds while they wait; beside other work on the
    # same cores a step then takes many times as long. A short spin costs an idle machine nothing.
    environment = {"GOMP_SPINCOUNT": "3000", **os.environ, "PYTHONSAFEPATH": "1"}
    environment["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}".rstrip(os.pathsep)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(len(os.sched_getaffinity(0)) // jobs, 1)))
    return environment


def set_aside(folder: Path) -> None:
    """--rerun: the old work is kept beside the new one."""
    names = (folder.with_name(f"{folder.name}.old{number}") for number in count(1))
    if folder.exists():
        folder.rename(next(name for name in names if not name.exists()))


def minutes(seconds: float) -> str:
    """A time as people read it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
