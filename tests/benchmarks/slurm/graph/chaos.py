"""Whatever may happen to a graph on a cluster, in an order that follows from a seed.

Every command of ours runs in a process of its own, in an environment with a user's variables that would hide all jobs
from Slurm's commands or send them elsewhere.
"""

import hashlib
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks import __main__ as command
from benchmarks.slurm import jobs, launch, snapshot, status
from benchmarks.stages.saved_plan import read_plan
from pretrain.common.errors import UserError
from tests.benchmarks.slurm.launch.conftest import NO_FIGURES, until
from tests.benchmarks.slurm.launch.slurm_cluster import NODES, Cluster

USERS = {"SQUEUE_ACCOUNT": "other", "SQUEUE_STATES": "COMPLETED", "SCANCEL_ACCOUNT": "other", "SLURM_CLUSTERS": "other",
         "SBATCH_PARTITION": "nope", "SBATCH_ACCOUNT": "other", "SBATCH_DEPENDENCY": "afterok:1", "SACCT_FORMAT": "x"}
KINDS = ("kill_a_process", "kill_a_job", "requeue", "tell_to_save", "cancel_behind_our_back", "cancel",
         "controller_away", "submit_twice_at_once", "kill_a_submission", "preempt", "node_fails")
PATIENCE = 600.0  # seconds for what is done in a minute by a machine that does nothing else
STEPS = 12  # of a stand-in's training
STAND_IN = '''
import fcntl, hashlib, json, os, pathlib, signal, sys, time


def _write(path, text):
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(text)
    os.replace(part, path)


def _stand_in(words):
    """convert and finetune in seconds: a chain of hashes that begins with the weights, with a checkpoint every other
    step. Leaves a file `doubled` where another one works in the same folder."""
    value = dict(zip(words, words[1:]))
    output, asked = pathlib.Path(value["--output"]), []
    for number, code in ((signal.SIGTERM, 143), (signal.SIGUSR2, 75)):
        signal.signal(number, lambda *_, code=code: asked.append(code))
    output.mkdir(parents=True, exist_ok=True)
    lock = open(output / "in-use", "w")
    late = time.monotonic() + 20
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > late:
                (output / "doubled").touch()
            time.sleep(0.1)
    if words[0] == "convert":
        _write(output / "detectron2.pkl", hashlib.sha256(pathlib.Path(words[1]).read_bytes()).hexdigest())
        return
    weights, saved = value["--weights"], output / "state.json"
    start = weights if weights == "random" else (pathlib.Path(weights) / "detectron2.pkl").read_text()
    step, state = json.loads(saved.read_text()) if saved.exists() else (0, start + value["--trial"])
    while step < STEPS:
        time.sleep(0.4)
        step, state = step + 1, hashlib.sha256(state.encode()).hexdigest()
        if step % 2 == 0 or asked:
            _write(saved, json.dumps([step, state]))
        if asked:
            sys.exit(asked[0])
    _write(output / "result.json", json.dumps({"state": state}))


if sys.argv[1] in ("convert", "finetune"):
    _stand_in(sys.argv[1:])
    sys.exit()
'''.replace("STEPS", str(STEPS))
SLOWER = """

import time as _time
_step = Trainer.step
def _slower(self, number, batches):
    _time.sleep(0.3)
    return _step(self, number, batches)
Trainer.step = _slower
"""


def stand_in_result(start: str, trial: int) -> str:
    """What a stand-in's training must end with."""
    state = start + str(trial)
    for _ in range(STEPS):
        state = hashlib.sha256(state.encode()).hexdigest()
    return state


def write_sources(root: Path) -> Path:
    """A copy of our sources: a pretraining is real but slower, conversions and fine-tunings are stand-ins."""
    for name, content in snapshot.sources(launch.ROOT).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, text in (("pretrain/trainer.py", SLOWER), ("pretrain/train.py", NO_FIGURES),
                       ("benchmarks/stages/publish.py", "\npublish = lambda *_: None\n")):
        path = root / name
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")
    path = root / "transfer" / "__main__.py"
    path.write_text(STAND_IN + path.read_text(encoding="utf-8"), encoding="utf-8")
    return root


class Draws:
    """Draws kinds of faults: all of them first, in a shuffled order, then any. One that found nothing to disturb has
    not happened and is drawn again."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.happened = Counter()

    @property
    def missing(self) -> list[str]:
        return [kind for kind in KINDS if not self.happened[kind]]

    def draw(self) -> str:
        return self.chance.choice(self.missing or KINDS)


class Chaos:
    """A graph, its cluster, and what happens to it. `words`: of ./run_all.sh."""

    def __init__(self, cluster: Cluster, words: list[str], output: Path, draws: Draws) -> None:
        self.cluster, self.words, self.output, self.draws, self.chance = cluster, words, output, draws, draws.chance
        self.where = ("--output", str(output))
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.begun:5.0f} s  {text}", flush=True)

    def happen(self) -> None:
        """A fault; then nothing may be doubled."""
        kind = self.draws.draw()
        self.say(kind)
        if getattr(self, kind)():
            self.draws.happened[kind] += 1
        else:
            self.say("nothing to disturb")
        self.nothing_doubled()

    # Commands of ours.

    def start(self, *words: str) -> multiprocessing.Process:
        process = multiprocessing.get_context("fork").Process(target=_ours, args=(words,))
        process.start()
        return process

    def ours(self, *words: str) -> int:
        process = self.start(*words)
        process.join(PATIENCE)
        assert process.exitcode is not None, f"{words} did not end"
        assert process.exitcode in (0, 2), f"{words} ended with {process.exitcode}"
        return process.exitcode

    def submit(self) -> int:
        return self.ours(*self.words)

    def retry(self) -> int:
        if not (self.output / "plan.json").is_file():  # a first submission that was killed
            return self.submit()
        return self.ours("retry", "--failed", *self.where)

    # What Slurm knows.

    def alive(self) -> dict[str, str]:
        """{job: its number in environments} of the jobs of this graph that are not over."""
        lines = self.cluster.run("squeue", "--noheader", "--array", "--partition=main", "--format=%i|%A").split()
        return dict(line.split("|") for line in lines)

    def nothing_doubled(self) -> None:
        """No stage has two jobs, and no job is without a record."""
        until(self._records_all, "a record of every job", PATIENCE)
        stages = Counter(record.stage for record in jobs.every_record(self.output) if record.job_id in self.alive())
        del stages[jobs.TABLES]
        assert not stages or max(stages.values()) == 1, stages

    def _records_all(self) -> bool:
        known = {record.job_id for record in jobs.every_record(self.output)}
        return self.alive().keys() <= known

    def processes(self) -> list[int]:
        """Those of one running job."""
        squeue = ("squeue", "--noheader", "--partition=main", "--states=RUNNING", "--format=%A")
        running = self.cluster.run(*squeue).split()
        if not running:
            return []
        mark = f"SLURM_JOB_ID={self.chance.choice(running)}".encode()
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
            except OSError:
                continue
        return sorted(found)

    # What happens. Each returns whether it did.

    def kill_a_process(self) -> bool:
        """The job's script, srun, a task or a process of its own."""
        found = self.processes()
        return self._kill([self.chance.choice(found)] if found else [])

    def kill_a_job(self) -> bool:
        return self._kill(self.processes())

    def _kill(self, numbers: list[int]) -> bool:
        killed = False
        for number in numbers:
            try:
                os.kill(number, signal.SIGKILL)
                killed = True
            except ProcessLookupError:
                continue
        return killed

    def _to_one(self, *command: str) -> bool:
        """The command with one of the jobs."""
        alive = sorted(self.alive())
        if alive:
            self.cluster._call(*command, self.chance.choice(alive))
        return bool(alive)

    def requeue(self) -> bool:
        return self._to_one("scontrol", "requeue")

    def tell_to_save(self) -> bool:
        return self._to_one("scancel", "--signal=USR2")

    def cancel_behind_our_back(self) -> bool:
        return self._to_one("scancel")

    def cancel(self) -> bool:
        stages, alive = sorted({record.stage for record in jobs.every_record(self.output)}), self.alive()
        if stages:
            self.ours("cancel", *self.chance.choice([[], [self.chance.choice(stages)]]), *self.where)
            self.retry()  # refused where one of them has not ended
        return bool(alive)

    def controller_away(self) -> bool:
        self.cluster.stop_controller()
        hasty = self.start(*self.words) if self.chance.random() < 0.5 else None
        time.sleep(self.chance.uniform(1, 6))
        self.cluster.start_controller()
        until(lambda: "UP" in self.cluster._call("scontrol", "ping"), "the controller", PATIENCE)
        if hasty is not None:
            hasty.join(PATIENCE)
            assert hasty.exitcode in (0, 2)
        return True

    def submit_twice_at_once(self) -> bool:
        both = [self.start(*self.words) for _ in range(2)]
        for process in both:
            process.join(PATIENCE)
            assert process.exitcode in (0, 2)
        return True

    def kill_a_submission(self) -> bool:
        self._to_one("scancel")  # so that there is something to submit
        time.sleep(self.chance.uniform(0, 2))
        process = self.start(*self.words)
        process.join(self.chance.uniform(0, 6))
        was_alive = process.is_alive()
        process.kill()
        process.join()
        return was_alive

    def preempt(self) -> bool:
        running = self._working()
        self.cluster.run("sbatch", "--partition=high", f"--nodes={self.chance.choice([1, 2])}", "--exclusive",
                         "--output=/dev/null", "--wrap=sleep 1")
        return bool(running)

    def _working(self) -> list[str]:
        """The nodes on which a job runs."""
        squeue = ("squeue", "--noheader", "--partition=main", "--states=RUNNING")
        return [node for node in NODES if self.cluster.run(*squeue, f"--nodelist={node}").strip()]

    def node_fails(self) -> bool:
        working = self._working()
        node = self.chance.choice(working or NODES)
        self.cluster.fail_node(node)
        time.sleep(self.chance.uniform(0, 3))
        self.cluster.start_node(node)
        self.cluster.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        return bool(working)

    # The end.

    def is_done(self) -> bool:
        return (self.output / "plan.json").is_file() and self._status() == status.ALL_DONE

    def _status(self) -> int:
        rows = status.snapshot(read_plan(self.output))
        for row in rows:
            assert row.detail or row.state not in ("failed", "lost"), f"no reason why {row.stage} {row.state}"
            if "scontrol release" in row.detail:
                self.cluster.run("scontrol", "release", row.job_id)
        return status.verdict(rows)[0]

    def settle(self, seconds: float) -> None:
        """Left alone, and retried, it is done some time."""
        late = time.monotonic() + seconds
        while not self.is_done():
            assert time.monotonic() < late, status.table(status.snapshot(read_plan(self.output)))
            if not (self.output / "plan.json").is_file() or self._status() == status.INCOMPLETE:
                self.say("retry")
                self.retry()
            self.nothing_doubled()
            time.sleep(2)
        self.say("done")


def _ours(words: tuple[str, ...]) -> None:
    os.environ.update(USERS)
    try:
        code = command.main(list(words))
    except UserError as error:
        print(f"error: {error}", flush=True)
        code = 2
    sys.exit(code)
