"""The ground of an episode: this machine, or the testbed's SLURM or Ray; each with faults of its own."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.testbed.machine import family
from cluster.testbed.ray import TestbedError
from tests.campaign.arena import NAME, Arena
from tests.campaign.faults import COMMON, Fault, signal_one
from tests.testbeds import ray_testbed, slurm_testbed, start_requeued_jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What a backend adds to an episode. `mend` brings up what a fault has broken, and hurries what only waits."""

    options: Mapping[str, Any]
    faults: Mapping[str, Fault]
    env: Mapping[str, str] = field(default_factory=dict)

    def mend(self) -> None:
        """Nothing to bring up on this machine."""


class _SlurmGround(Ground):
    def mend(self) -> None:
        bed = slurm_testbed()
        bed.up()
        start_requeued_jobs()


class _RayGround(Ground):
    def mend(self) -> None:
        ray_testbed().up()


def ground(backend: str) -> Ground:
    """The ground of `backend`, brought up."""
    return {"local": _local, "slurm": _slurm, "ray": _ray}[backend]()


@contextlib.contextmanager
def folder(backend: str, *, keep: bool) -> Iterator[Path]:
    """A folder for one episode; kept with `keep`, to be looked at."""
    root = Path(tempfile.mkdtemp(prefix=f"campaign-{backend}-"))
    try:
        yield root
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


# This machine --------------------------------------------------------------------------------------------------------


def _local() -> Ground:
    own = {
        "dispatcher killed": _kill_dispatcher,
        "dispatcher frozen": _freeze_dispatcher,
        "runner killed": _kill_runner,
        "disk full": _full_disk,
    }
    return Ground(options={"workers": 2}, faults={**COMMON, **own})


def _kill_dispatcher(arena: Arena, rng: random.Random) -> bool:
    return signal_one(arena.pids("dispatch"), rng, signal.SIGKILL)


def _kill_runner(arena: Arena, rng: random.Random) -> bool:
    return signal_one([pid for pid in arena.pids("run") if pid not in arena.workers()], rng, signal.SIGKILL)


def _freeze_dispatcher(arena: Arena, rng: random.Random) -> bool:
    """A dispatcher that hangs for up to 20 seconds, while somebody resumes."""
    pids = arena.pids("dispatch")
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    arena.command("resume", NAME, "--on", arena.backend)
    time.sleep(rng.uniform(1.0, 20.0))
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return bool(pids)


def _full_disk(arena: Arena, rng: random.Random) -> bool:
    """The file system of the episode fills up for some seconds; a small one is mounted for that from the start."""
    if not os.path.ismount(arena.root):
        return False
    ballast = arena.root / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    command = rng.choice(("status", "resume", "cancel", "hold", "check", "limit"))
    arena.command(command, NAME, *(("1",) if command == "limit" else ()))
    time.sleep(rng.uniform(0.5, 4.0))
    ballast.unlink()
    return True


# SLURM ---------------------------------------------------------------------------------------------------------------


def _slurm() -> Ground:
    bed = slurm_testbed()

    def node(rng: random.Random) -> str:
        return rng.choice(("node1", "node2"))

    def power_failure(_arena: Arena, rng: random.Random) -> bool:
        name = node(rng)
        bed.die(name)
        bed.fail(name)
        time.sleep(rng.uniform(0.0, 2.0))
        bed.start(name)
        return True

    def cut_off(_arena: Arena, rng: random.Random) -> bool:
        name = node(rng)
        bed.partition(name)
        bed.fail(name)
        time.sleep(rng.uniform(1.0, 5.0))
        bed.start(name)
        return True

    def controller_killed(arena: Arena, rng: random.Random) -> bool:
        bed.controller_down()
        arena.command(rng.choice(("status", "resume", "check")), NAME)
        bed.controller_up()
        return True

    def database_killed(arena: Arena, rng: random.Random) -> bool:
        bed.database_down()
        arena.command(rng.choice(("status", "resume", "check")), NAME)
        bed.database_up()
        return True

    def on_a_job(*command: str) -> Fault:
        def fault(_arena: Arena, rng: random.Random) -> bool:
            listed = subprocess.run(["squeue", "-h", "-r", "-t", "R", "-o", "%i"], capture_output=True, text=True)
            jobs = listed.stdout.split()
            if not jobs:
                return False
            subprocess.run([*command, rng.choice(jobs)], capture_output=True, check=False)
            return True

        return fault

    own = {
        "node's power failed": power_failure,
        "node cut off": cut_off,
        "controller killed": controller_killed,
        "database killed": database_killed,
        "job requeued": on_a_job("scontrol", "requeue"),
        "job cancelled by scancel": on_a_job("scancel"),
        "job told to end": on_a_job("scancel", "--signal=TERM", "--full"),
    }
    return _SlurmGround(options={}, faults={**COMMON, **own}, env=bed.env())


# Ray -----------------------------------------------------------------------------------------------------------------


def _ray() -> Ground:
    bed = ray_testbed()

    def node_killed(_arena: Arena, _rng: random.Random) -> bool:
        bed.kill_node(1)
        bed.up()
        return True

    def head_killed(arena: Arena, rng: random.Random) -> bool:
        bed.kill_node(0)
        arena.command(rng.choice(("status", "resume", "check")), NAME)
        bed.up()
        return True

    def ray_worker_killed(_arena: Arena, _rng: random.Random) -> bool:
        try:
            return bed.kill_worker() > 0
        except TestbedError:  # no task runs at the moment
            return False

    def dispatcher_killed(arena: Arena, rng: random.Random) -> bool:
        mark = str(arena.root)
        pids = [one.identity.pid for one in family() if "cluster.ray.dispatcher" in one.command and mark in one.command]
        return signal_one(pids, rng, signal.SIGKILL)

    own = {
        "node killed": node_killed,
        "head killed": head_killed,
        "Ray's worker killed": ray_worker_killed,
        "dispatcher killed": dispatcher_killed,
    }
    return _RayGround(options={"address": bed.address}, faults={**COMMON, **own})
