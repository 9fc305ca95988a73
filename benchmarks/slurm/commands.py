"""Slurm's commands, called without the variables by which a user changes what they do or show.

With SQUEUE_ACCOUNT set, squeue hides the jobs of other accounts, and a job that is not seen would
be submitted again.
"""

import os
import subprocess

OPTIONS = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SACCT_", "SCONTROL_")
ACCESS = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")  # where Slurm is and who asks: these stay


def environment() -> dict[str, str]:
    """This process's environment without them."""
    kept = {}
    for name, value in os.environ.items():
        if name in ACCESS or not name.startswith(OPTIONS):
            kept[name] = value
    return kept


def call(*command: str) -> subprocess.CompletedProcess[str]:
    """Run one to its end. One that is not installed, or takes longer than a minute, has failed and
    says so."""
    try:
        return subprocess.run(command, env=environment(), capture_output=True, text=True, errors="replace",
                              timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))
