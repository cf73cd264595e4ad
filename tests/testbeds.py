"""The pretend clusters that tests run on, each brought up at its first use in a session and taken down at the end."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

from cluster.testbed.ray import RayTestbed
from cluster.testbed.slurm import SlurmTestbed

_beds: list[tuple[RayTestbed | SlurmTestbed, Path]] = []


def take_down() -> None:
    """Stop what was brought up here."""
    for bed, folder in _beds:
        bed.down()
        shutil.rmtree(folder, ignore_errors=True)
    _beds.clear()


@cache
def ray_testbed() -> RayTestbed:
    """Two raylets with eight logical GPUs each; the folder's path is short, as Ray's sockets need it."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    bed = RayTestbed.at(folder)

    _beds.append((bed, folder))
    bed.up()
    return bed


@cache
def slurm_testbed() -> SlurmTestbed:
    """Two nodes with eight pretend GPUs each, which this process's squeue, sbatch, ... speak to."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    bed = SlurmTestbed(folder)

    _beds.append((bed, folder))
    bed.up()
    os.environ.update(bed.env())
    return bed


_requeued: dict[str, float] = {}  # waiting jobs by id, and when they were first seen to


def start_requeued_jobs() -> None:
    """Spare the two minutes for which SLURM puts a requeued job off, but for the seconds that its node needs to clear
    away its first run."""
    command = ["squeue", "-h", "-r", "-t", "PD", "-o", "%i %r"]
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        job, reason = line.split(maxsplit=1)
        if reason == "BeginTime" and time.monotonic() - _requeued.setdefault(job, time.monotonic()) > 3.0:
            del _requeued[job]
            subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], capture_output=True, check=False)
