"""Runs SLURM's commands. The caller learns whether one answered, refused, or could not be reached.

ClusterUsageError     the program is not installed here
ClusterUnavailable    no answer: says nothing about what was asked; with sbatch, not even whether it was accepted
Refused               SLURM answered no, in its own words
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Final, TypeVar

from cluster.backend import ClusterError, ClusterUnavailable, ClusterUsageError

TIMEOUT_S: Final = 60.0
RESTART_PAUSES_S: Final = (2.0, 5.0)  # each try takes ten seconds by itself where nobody answers
Answer = TypeVar("Answer")
# What a shell inside a job, or a user's own preferences, would otherwise make of our calls and jobs.
_INHERITED: Final = re.compile(r"^(SLURM|SLURMD|SBATCH|SRUN|SQUEUE|SACCT|SCANCEL|SINFO|SALLOC|SCONTROL|PMIX?)_")
_KEPT: Final = ("SLURM_CONF",)
# How SLURM's clients say that they did not get through to a daemon, or lost it half-way.
_NO_ANSWER: Final = re.compile(
    r"timed out|unable to contact|connection refused|connection reset|connect failure|communication"
    r"|zero bytes|transport|temporarily unavailable|problem talking to the database|persistent connection"
    r"|slurm_receive|slurm_send|not responding|backup controller|in standby|could not establish",
    re.IGNORECASE,
)


class Refused(ClusterError):
    """SLURM refused a command; the message holds its words."""


def inherited_variables() -> list[str]:
    """The variables of this process that a SLURM command must not see."""
    return [name for name in os.environ if _INHERITED.match(name) and name not in _KEPT]


def clean_environment() -> dict[str, str]:
    """This process's environment without what it inherited from a job, and with machine-readable answers."""
    inherited = set(inherited_variables())
    kept = {name: value for name, value in os.environ.items() if name not in inherited}
    # 0: array ranges are not cut short at 64 characters; %s: Unix seconds
    return kept | {"LC_ALL": "C", "SLURM_BITSTR_LEN": "0", "SLURM_TIME_FORMAT": "%s"}


def require(program: str) -> None:
    """Raises: ClusterUsageError when the program is not installed here."""
    if shutil.which(program) is None:
        raise ClusterUsageError(
            f"{program}: not on PATH; run this on a login node of the SLURM cluster (`module load slurm` on some),"
            " or choose another backend with --on"
        )


def ask(*command: str, timeout_s: float = TIMEOUT_S) -> str:
    """What the command prints. Raises: ClusterUsageError, ClusterUnavailable, Refused."""
    require(command[0])
    try:
        ran = subprocess.run(
            command,
            env=clean_environment(),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ClusterUnavailable(f"{command[0]} did not answer within {timeout_s:.0f} s") from None
    if ran.returncode:
        raise failure(command[0], ran.stderr)
    return ran.stdout


def patiently(call: Callable[[], Answer]) -> Answer:
    """What `call` returns, tried again for as long as a controller takes to restart. Raises: what it raised last."""
    for pause_s in RESTART_PAUSES_S:
        try:
            return call()
        except ClusterUnavailable:
            time.sleep(pause_s)
    return call()


def failure(program: str, stderr: str) -> ClusterError:
    """What a command's error output means. None at all is no refusal: a signal has ended the command."""
    text = "; ".join(line.strip() for line in stderr.splitlines() if line.strip())
    if not text:
        return ClusterUnavailable(f"{program} ended without an answer")
    if _NO_ANSWER.search(text):
        return ClusterUnavailable(f"{program}: {text}")
    return Refused(f"{program}: {text}")
