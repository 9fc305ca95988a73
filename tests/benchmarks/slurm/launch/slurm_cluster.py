"""A private Slurm of two nodes on this machine, in one folder, on loopback: real daemons, fake GPUs.

All daemons are our children and run in the foreground: they are ended by their own numbers, and end when we die. Each
slurmd lives in its own mount and UTS namespace, so that both nodes have a name of their own that resolves.
"""

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo", "unshare")
PACKAGES = "slurmctld slurmd slurm-client munge"
NODES = ("node1", "node2")
CGROUPS = Path("/sys/fs/cgroup/memory")  # version 1
PR_SET_PDEATHSIG = 1
SLURMD = 'hostname "$1" && mount --bind "$2/hosts" /etc/hosts && exec slurmd -D -f "$2/slurm.conf" -N "$1"'


def missing() -> str:
    """Why no cluster can be started here; "" when one can."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"found no {', '.join(absent)} (Debian, Ubuntu: apt-get install {PACKAGES})"
    if os.geteuid() != 0:
        return "a private Slurm needs root, for namespaces and fake GPUs"
    if subprocess.run(["unshare", "-m", "-u", "true"], capture_output=True, check=False).returncode:
        return "namespaces are not allowed here"
    return ""


class Cluster:
    """Partitions: main (default), and high, which preempts it. Two nodes of 8 CPUs and 2 GPUs each, all pretended.

    `memory`: cgroups hold a job to the memory that it asked for.
    """

    def __init__(self, folder: Path, memory: bool = False) -> None:
        self.folder, self.memory = folder, memory
        self.daemons: list[subprocess.Popen] = []
        self.nodes: dict[str, subprocess.Popen] = {}
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"),
                            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

    def __enter__(self) -> "Cluster":
        try:
            self._write()
            self._start("munged", "--foreground", "--force", f"--key-file={self.folder}/munge/key",
                        f"--socket={self.folder}/munge/socket", f"--pid-file={self.folder}/munge/pid",
                        f"--seed-file={self.folder}/munge/seed", "--num-threads=2")
            self._until(lambda: (self.folder / "munge" / "socket").exists(), "munged")
            self.start_controller()
            for node in NODES:
                self.start_node(node)
            self._until_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.controller.poll() is None:
            self._call("scancel", "--signal=KILL", "--full", "--partition=main")
            self._call("scancel", "--partition=main")
            self._call("scancel", "--partition=high")
            until = time.monotonic() + 15
            while self._call("squeue", "--noheader").strip() and time.monotonic() < until:
                time.sleep(0.1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for node in NODES if self.memory else ():
            with contextlib.suppress(OSError):  # in use by another cluster
                (CGROUPS / f"slurm_{node}").rmdir()

    def start_controller(self) -> None:
        """Start slurmctld, at first or after `stop_controller`."""
        self.controller = self._start("slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")

    def stop_controller(self) -> None:
        """As for an update: jobs go on, commands get no answer.

        Told, not killed: a slurmctld that is killed forgets what it has not written yet, and then holds a job that has
        ended for running until its node reports again, which takes it twenty pings.
        """
        self.controller.terminate()
        self.controller.wait(30)
        self.daemons.remove(self.controller)

    def start_node(self, node: str) -> None:
        """Switch a node on."""
        self.nodes[node] = self._start("unshare", "-m", "-u", "sh", "-c", SLURMD, "sh", node, str(self.folder))

    def fail_node(self, node: str) -> None:
        """As when its power goes: all that runs on it is gone at once, and the controller is told by a health check
        (by itself it would notice after SlurmdTimeout)."""
        daemon = self.nodes.pop(node)
        home = os.readlink(f"/proc/{daemon.pid}/ns/mnt")
        for place in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(place / "ns" / "mnt") == home:
                    os.kill(int(place.name), signal.SIGKILL)
            except OSError:
                continue
        daemon.wait()
        self.daemons.remove(daemon)
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=power")

    def mend_node(self, node: str) -> None:
        """Switch it on again and give it back its work."""
        self.start_node(node)
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self._until_idle(node)

    def hide(self, folder: Path) -> None:
        """From now on the nodes see another, empty folder in this place."""
        for daemon in self.nodes.values():
            self.run("nsenter", f"--target={daemon.pid}", "--mount", "mount", "-t", "tmpfs", "none", str(folder))

    def _until_idle(self, *nodes: str) -> None:
        self._until(lambda: set(nodes or NODES) <= set(self._call(
            "sinfo", "--noheader", "--Node", "--states=idle", "--partition=main", "--format=%N").split()), "the nodes")

    def run(self, *command: str) -> str:
        """Output of a command that must succeed."""
        return subprocess.run(command, env=os.environ | self.environment, check=True, capture_output=True, text=True,
                              timeout=180).stdout

    def show(self, job_id: str, key: str) -> str:
        """One value of `scontrol show job`."""
        words = self.run("scontrol", "--oneliner", "show", "job", job_id).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{key}="))

    def _call(self, *command: str) -> str:
        """Output of a command that may fail."""
        return subprocess.run(command, env=os.environ | self.environment, check=False, capture_output=True, text=True,
                              timeout=180).stdout

    def _start(self, *command: str) -> subprocess.Popen:
        with open(self.folder / "daemons.log", "ab") as log:
            daemon = subprocess.Popen(command, env=os.environ | self.environment, stdout=log, stderr=log,
                                      stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_end_with_us)
        self.daemons.append(daemon)
        return daemon

    def _until(self, ready, what: str, seconds: float = 60.0) -> None:
        until = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > until:
                tail = (self.folder / "daemons.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{what} did not start in {seconds:.0f} s:\n{tail}")
            time.sleep(0.05)

    def _write(self) -> None:
        """Configuration, key, devices, names."""
        folder = self.folder
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)
        (folder / "munge").chmod(0o711)
        (folder / "munge" / "key").write_bytes(secrets.token_bytes(128))
        (folder / "munge" / "key").chmod(0o400)
        for number in range(2):
            os.mknod(folder / f"gpu{number}", 0o20666, os.makedev(1, 3))  # /dev/null under another name
        (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-1]\n")
        names = "".join(f"127.0.0.1 {node}\n" for node in NODES)
        (folder / "hosts").write_text(Path("/etc/hosts").read_text() + names)
        (folder / "slurm.conf").write_text(self._configuration())
        (folder / "cgroup.conf").write_text(
            f"CgroupMountpoint={CGROUPS.parent}\nCgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n")

    def _configuration(self) -> str:
        ports = _free_ports(1 + len(NODES))
        values = {
            "ClusterName": "private", "SlurmctldHost": f"{socket.gethostname().split('.')[0]}(127.0.0.1)",
            "SlurmctldPort": ports[0], "SlurmUser": "root", "SlurmdUser": "root",
            "AuthType": "auth/munge", "CredType": "cred/munge",
            # cred_expire is the delay of a requeue too.
            "AuthInfo": f"socket={self.folder}/munge/socket,cred_expire=5",
            "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
            "StateSaveLocation": self.folder / "state", "SlurmdSpoolDir": self.folder / "spool" / "%n",
            "SlurmctldPidFile": self.folder / "slurmctld.pid", "SlurmdPidFile": self.folder / "slurmd.%n.pid",
            "FirstJobId": 1 + secrets.randbelow(10_000_000),  # two clusters at once: ports come from job numbers
            "TaskPlugin": "task/cgroup" if self.memory else "task/none",
            "ProctrackType": "proctrack/linuxproc", "MpiDefault": "none",
            "SwitchType": "switch/none", "MailProg": "/bin/true",
            "JobAcctGatherType": "jobacct_gather/none", "AccountingStorageType": "accounting_storage/none",
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "batch_sched_delay=0,bf_interval=2,sched_interval=2,sched_min_interval=0",
            "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core_Memory",
            "SlurmdParameters": "config_overrides", "GresTypes": "gpu",
            "JobRequeue": 1, "PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE",
            "SlurmctldParameters": "preempt_send_user_signal", "KillWait": 10, "MinJobAge": 86400,
            "ReturnToService": 2, "SlurmctldTimeout": 30, "SlurmdTimeout": 60,
        }
        lines = [f"{key}={value}" for key, value in values.items()]
        for node, port in zip(NODES, ports[1:], strict=True):
            lines.append(f"NodeName={node} NodeHostname={node} NodeAddr=127.0.0.1 Port={port} CPUs=8 Boards=1 "
                         "SocketsPerBoard=1 CoresPerSocket=8 ThreadsPerCore=1 RealMemory=8000 Gres=gpu:2")
        lines += ["PartitionName=main Nodes=ALL Default=YES State=UP DefMemPerCPU=256 PriorityTier=1 "
                  "PreemptMode=REQUEUE GraceTime=60",
                  "PartitionName=high Nodes=ALL State=UP DefMemPerCPU=256 PriorityTier=10 PreemptMode=OFF"]
        return "\n".join(lines) + "\n"


def _end_with_us() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
