"""The pretend SLURM cluster itself: comes up once, does what its faults say, and leaves nothing behind."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.testbed.machine import MARK, family
from cluster.testbed.slurm import N_PORTS, SlurmTestbed
from cluster.testbed.slurm_daemons import TestbedError
from tests.integration.slurm.conftest import shell

pytestmark = pytest.mark.slurm


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path."""
    path = Path(tempfile.mkdtemp(prefix="bed-", dir="/tmp"))
    yield path
    SlurmTestbed(path).down()
    shutil.rmtree(path)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m cluster.testbed slurm ...`."""
    words = [sys.executable, "-m", "cluster.testbed", "slurm", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def listening(base_port: int) -> list[str]:
    """The addresses on which one of the cluster's ports is listened on, as proc(5) writes them."""
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    local = [field[1].split(":") for field in fields if field[3] == "0A"]
    return [address for address, port in local if base_port <= int(port, 16) < base_port + N_PORTS]


def state_of(pid: int) -> str:
    """The kernel's letter for a process: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(is_so: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Returns when `is_so()`; fails the test where that takes too long."""
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, f"not within {limit_s:.0f} s"
        time.sleep(0.1)


def test_it_comes_up_once_and_goes_down_whole(folder: Path) -> None:
    """`up` twice is one cluster, of one node here, on loopback alone; `down` leaves no process of it."""
    assert command("up", str(folder), "--nodes", "1", "--gpus", "2").returncode == 0
    before = {process.identity for process in family(f"{MARK}={folder}")}
    assert command("up", str(folder), "--nodes", "1", "--gpus", "2").returncode == 0
    assert {process.identity for process in family(f"{MARK}={folder}")} == before
    assert command("status", str(folder)).stdout.split()[-2:] == ["node1", "idle"]
    assert set(listening(SlurmTestbed(folder).layout.base_port)) == {"0100007F"}  # 127.0.0.1
    assert command("down", str(folder)).returncode == 0
    assert family(f"{MARK}={folder}") == []
    assert command("status", str(folder)).returncode == 1


def test_a_node_can_be_frozen_and_thawed(testbed: SlurmTestbed) -> None:
    """Its daemon is stopped by SIGSTOP, and continues; `up` thaws it too."""
    (daemon,) = (one.identity for one in family(f"{MARK}_NODE={testbed.folder}:node2") if "slurmd -D" in one.command)
    testbed.freeze("node2")
    wait_until(lambda: state_of(daemon.pid) == "T")
    testbed.thaw("node2")
    wait_until(lambda: state_of(daemon.pid) != "T")
    testbed.freeze("node2")
    testbed.up()
    wait_until(lambda: state_of(daemon.pid) != "T")


def test_a_dead_node_runs_nothing(testbed: SlurmTestbed) -> None:
    """`die` ends the daemon and the jobs' processes of one node alone."""
    job = shell("sbatch", "--parsable", "--nodelist=node2", "--no-requeue", "--output=/dev/null", "--wrap=sleep 300")
    wait_until(lambda: shell("squeue", "-h", "-j", job, "-o", "%T") == "RUNNING" and steps("node2", testbed))
    testbed.die("node2")
    assert family(f"{MARK}_NODE={testbed.folder}:node2") == []
    assert family(f"{MARK}_NODE={testbed.folder}:node1") != []
    shell("scancel", job)


def steps(node: str, testbed: SlurmTestbed) -> bool:
    """Whether a job's own process runs on the node."""
    return any("sleep 300" in one.command for one in family(f"SLURM_CONF={testbed.conf}", f"SLURMD_NODENAME={node}"))


@pytest.mark.parametrize(
    ("path", "message"), [("/tmp/" + "x" * 80, "at most 60 characters"), ("/tmp/a b", "without blanks")]
)
def test_a_path_that_does_not_do_is_refused(path: str, message: str) -> None:
    """Before anything is installed or written."""
    with pytest.raises(TestbedError, match=message):
        SlurmTestbed(Path(path))
    assert not Path(path).exists()


def test_a_fault_without_a_cluster_says_so() -> None:
    """Exit code 1 and a message, no traceback."""
    ended = command("fault", "/tmp/nothing-here", "die", "node1")
    assert (ended.returncode, "no cluster was ever brought up here" in ended.stderr) == (1, True)
