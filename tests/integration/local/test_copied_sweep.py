"""A copied and a moved sweep with real processes on this machine: none of them acts on another folder's jobs."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.backend import Control, JobRequest
from orchestrator.jobs import submit
from orchestrator.spec.text import to_yaml
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.specs import raw_spec

PATIENCE_S = 120.0


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file for which every job waits."""
    gate, real = tmp_path / "gate", submit.request_of

    def stubbed(*arguments: Any) -> JobRequest:
        request = real(*arguments)
        return replace(request, argv=(sys.executable, "-m", "tests.stub_worker", request.argv[-1], str(gate)))

    monkeypatch.setattr(submit, "request_of", stubbed)
    return gate


@pytest.fixture
def original(tmp_path: Path, gate: Path, demo_model: Path) -> Iterator[Sweep]:
    """One job that runs and one that waits behind it; at the end all are stopped."""
    grid = {"experiments": ["left_boundary", "bracket_identity"], "layers": [0], "positions": 81}
    raw = raw_spec(
        model={"path": str(demo_model), "dtype": "float32"}, grid=grid, local={"workers": 1}, jobs={"target_h": 1e-6}
    )
    (tmp_path / "small.yaml").write_text(to_yaml(raw), encoding="utf-8")
    sweep = Sweep.load(tmp_path / "small.yaml", sweeps=tmp_path / "sweeps")
    sweep.submit()
    wait(lambda: sum(job.state == "RUNNING" for job in sweep.status().jobs) == 1, "a running job")
    yield sweep
    gate.touch()
    if sweep.folder.root.exists():
        sweep.control(Control.KILL, sweep.jobs())


def wait(is_so: Callable[[], object], what: str) -> None:
    """Until it is so."""
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.1)


def files_of(folder: Path) -> dict[str, bytes]:
    """What says which jobs there are and what is wanted of them."""
    kept = ("submissions/", "jobs/", "cluster/local/orders/", "cluster/local/queue/", "cluster/local/runs/")
    names = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in names.items() if name.startswith(kept)}


def test_a_copy_runs_its_own_jobs_and_leaves_the_original_alone(original: Sweep, gate: Path) -> None:
    """Cancelled, resumed and run to its end, while the original's jobs run and wait as before."""
    copy = Sweep.load(shutil.copytree(original.folder.root, original.folder.root.with_name("copy")))
    before = files_of(original.folder.root)
    copy.control(Control.KILL, original.jobs())
    copy.control(Control.KILL, copy.jobs())
    assert copy.resume().n_cells == 2
    wait(lambda: any(job.state == "RUNNING" for job in copy.status().jobs), "a job of the copy")
    assert sorted(job.state for job in original.status().jobs) == ["PENDING", "RUNNING"]
    assert files_of(original.folder.root) == before
    gate.touch()
    wait(lambda: copy.status().is_done, "the copy's end")
    wait(lambda: original.status().is_done, "the original's end")
    assert {path.name[:2] for path in copy.folder.shards.iterdir()} == {"r2"}
    assert {path.name[:2] for path in original.folder.shards.iterdir()} == {"r1"}


def test_a_moved_sweep_resumes_where_it_lies(original: Sweep, gate: Path) -> None:
    """Its jobs of before are stopped, and everything is written to the new place."""
    place = original.folder.root
    sweep = Sweep.load(place.rename(place.with_name("elsewhere")))
    sweep.resume()
    wait(lambda: not any(job.holds_cells for job in sweep.status().jobs if job.submission == 1), "the old jobs' end")
    gate.touch()
    sweep.resume()
    wait(lambda: sweep.status().is_done, "the end")
    assert not (place / "shards").exists()
