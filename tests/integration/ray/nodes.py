"""A third node of the running cluster, for a while."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.testbed.machine import stop
from cluster.testbed.ray import N_TRIES, RayTestbed, main


@contextmanager
def third_node(bed: RayTestbed) -> Iterator[None]:
    """One that the testbed's own command brings up."""
    try:
        assert main(["up", str(bed.folder), "--nodes", "3"]) == 0
        yield
    finally:
        _take_away(bed)


@contextmanager
def blind_node(bed: RayTestbed, hidden: Path) -> Iterator[None]:
    """One for which the folder `hidden` is empty, as if it were not mounted there."""
    hide = f'mount -t tmpfs none "{hidden}" && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hide, "sh", *bed.start_command(2)]
    try:
        for _ in range(N_TRIES):
            if subprocess.run(command, env=bed.environment(2), check=False, capture_output=True).returncode == 0:
                break
            stop(bed.processes(2))
        yield
    finally:
        _take_away(bed)


def _take_away(bed: RayTestbed) -> None:
    """End the third node, and wait until the head knows."""
    stop(bed.processes(2))
    end = time.monotonic() + 60
    while len(bed.status()) > 2:
        assert time.monotonic() < end, f"still alive: {bed.status()}"
        time.sleep(0.1)
