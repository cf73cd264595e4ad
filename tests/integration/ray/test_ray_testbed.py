"""The pretend Ray cluster itself: it comes up once, beside others, and goes down alone."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.testbed.machine import MARK, family
from cluster.testbed.ray import RayTestbed, main

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path."""
    path = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield path
    RayTestbed.at(path).down()
    shutil.rmtree(path, ignore_errors=True)


def daemons(folder: Path) -> set[int]:
    """The processes that make a cluster: the head's store and each node's raylet."""
    names = ("/gcs/gcs_server ", "/raylet/raylet ")
    return {one.identity.pid for one in family(f"{MARK}={folder}") if any(name in one.command for name in names)}


def listening(port: int) -> set[str]:
    """The addresses on which a port is listened on, as proc(5) writes them."""
    lines = [line for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
    fields = [line.split() for line in lines]
    return {field[1].split(":")[0] for field in fields if field[3] == "0A" and field[1].endswith(f":{port:04X}")}


def test_it_comes_up_once_and_goes_down_alone(
    bed: RayTestbed, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`up` twice is one cluster, of one node here, which stays as it was begun, its dashboard on loopback alone; `down`
    leaves no process of it, and another cluster does not notice."""
    bed.up()
    others = daemons(bed.folder)
    assert main(["up", str(folder), "--nodes", "1", "--gpus", "2"]) == 0
    mine = daemons(folder)
    assert len(mine) == 2
    assert main(["up", str(folder)]) == 0
    assert main(["up", str(folder), "--gpus", "4"]) == 1
    assert "1 nodes x 2 GPUs are up" in capsys.readouterr().err
    assert daemons(folder) == mine
    assert listening(RayTestbed.at(folder).base_port + 1) == {"0100007F"}  # 127.0.0.1
    assert main(["status", str(folder)]) == 0
    assert capsys.readouterr().out.startswith("1 of 1 nodes: 127.0.1.1\n")
    assert main(["down", str(folder)]) == 0
    assert family(f"{MARK}={folder}") == []
    assert (daemons(bed.folder), len(bed.status())) == (others, 2)


def test_it_goes_down_whole_after_its_head_has_died(folder: Path) -> None:
    """A minute after the head's death the other node's raylet has ended by itself, and its agents have lost their
    parent: `down` ends them too. Looked for by the folder in their command lines, which `down` does not read."""
    assert main(["up", str(folder), "--nodes", "2", "--gpus", "1"]) == 0
    bed = RayTestbed.at(folder)
    bed.kill_node(0)
    end = time.monotonic() + 120
    while daemons(folder) and time.monotonic() < end:
        time.sleep(1.0)
    assert main(["down", str(folder)]) == 0
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert [command for command in commands if str(folder) in command] == []


def test_a_path_that_is_too_long_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is written: Ray would fail at its sockets."""
    folder = tmp_path / ("x" * 45)
    assert main(["up", str(folder)]) == 1
    assert "a path of at most 45" in capsys.readouterr().err
    assert not folder.exists()
