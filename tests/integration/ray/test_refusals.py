"""What cannot run on a Ray cluster is refused by `submit`, with what to do about it, and leaves nothing behind."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from platform import python_version

import pytest

from cluster.backend import ClusterUsageError, JobState
from cluster.testbed.machine import free_ports
from cluster.testbed.ray import RayTestbed
from orchestrator import cli
from tests.contract.bench import Bench
from tests.fake_ray import fake_ray
from tests.integration.ray.nodes import blind_node

pytestmark = [pytest.mark.ray, pytest.mark.slow]

Refused = Callable[..., str]


@pytest.fixture
def refused(
    demo_model: Path,
    bed: RayTestbed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Refused:
    """Has `causalsweep submit --on ray` refuse a cell with exit code 2 and one line, which it gives."""
    bed.up()
    spec = {
        "name": "tiny",
        "model": {"path": str(demo_model), "dtype": "float32"},
        "task": "price_tagging",
        "grid": {"experiments": ["left_boundary"], "layers": [2], "positions": [81]},
        "cluster": {"nodes": 2, "gpus_per_node": 8, "gpu": "cpu"},
        "ray": {"address": bed.address},
    }
    (tmp_path / "tiny.yaml").write_text(json.dumps(spec), encoding="utf-8")  # JSON is YAML
    monkeypatch.chdir(tmp_path)

    def said(*changes: str) -> str:
        sets = [argument for change in changes for argument in ("--set", change)]
        command = ["causalsweep", "submit", "tiny.yaml", "--on", "ray", "--sweeps", "sweep/sweeps", *sets]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as end:
            cli.main()
        shown = capsys.readouterr()
        assert (end.value.code, shown.out) == (2, "")
        (line,) = shown.err.splitlines()
        assert line.startswith("error: ")
        assert not Path("sweep/sweeps").exists()
        return line

    return said


def test_no_ray_at_the_address(refused: Refused) -> None:
    """The address, and how Ray is started or reached."""
    address = f"http://127.0.0.1:{free_ports(1)}"
    line = refused(f"ray.address={address}")
    assert f"no Ray at {address}: " in line
    assert "start Ray (`ray start --head`), mend ray.address, or open the tunnel" in line


def test_more_gpus_than_a_node_has(refused: Refused) -> None:
    """The plan's machines are larger than Ray's: what the job needs, what each node has, and the keys to lower."""
    line = refused("jobs.gpus=9", "cluster.gpus_per_node=16")
    assert "needs 9 GPU, 1 CPU on one node; Ray has node-0 8 GPU, 8 CPU; node-1 8 GPU, 8 CPU; lower jobs.gpus" in line


@pytest.mark.parametrize(("ray", "python"), [("2.1.0", python_version()), (version("ray"), "3.8.1")])
def test_other_versions(refused: Refused, ray: str, python: str) -> None:
    """Both sides' versions, and which environment to use."""
    with fake_ray() as server:
        server.serve("/api/v0/cluster_metadata", {"data": {"rayVersion": ray, "pythonVersion": python}})
        line = refused(f"ray.address={server.address}")
    here, there = f"Ray {version('ray')} on Python {python_version()}", f"Ray {ray} on Python {python}"
    assert f"{here} here, {there} at {server.address}; submit from the environment that `ray start` ran in" in line


def test_a_node_that_does_not_see_the_folder_is_named(bench: Bench, bed: RayTestbed, refused: Refused) -> None:
    """Submit refuses before any job starts and names node, file and remedy; mended, the same token goes through."""
    with blind_node(bed, bench.folder):
        with pytest.raises(ClusterUsageError, match=r"node node-2: cannot read .*: No such file.*; mount ") as raised:
            bench.cluster().submit([bench.request("a")], token="t1")
        assert str(bench.folder) in str(raised.value)
        found = {finding.check: finding for finding in bench.cluster().doctor()}
        assert not found["node node-2"].ok
        assert found["node node-1"].ok
        line = refused()
        assert f"node node-2: cannot read {Path.cwd()}/sweep/sweeps/tiny/" in line
        assert line.endswith(f"mount {Path.cwd()}/sweep/sweeps/tiny and this Python at the same paths on every node")
    assert bench.starts("a") == []
    assert bench.wait_for(bench.cluster().submit([bench.request("a")], token="t1"))["a"].state is JobState.COMPLETED
