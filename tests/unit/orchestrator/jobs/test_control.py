"""Cancel, hold, release and limit: they reach every job of the sweep, or say why not."""

from __future__ import annotations

import errno

import pytest

from cluster.backend import Control, JobState
from orchestrator.backends.submissions import read_submissions, withdraw
from orchestrator.errors import StorageError
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import (
    Death,
    World,
    _Fake,
    jobs_of,
    killed_in_submit,
    set_state,
    write_shard,
)


def test_cancel_reaches_jobs_whose_submitter_died(load: LoadSweep, world: World) -> None:
    """The backend has the jobs, and the process died before it heard their handles: they are asked for, and told."""
    sweep = load()
    killed_in_submit(sweep, world)
    sweep.control(Control.KILL, sweep.jobs())
    (handles,) = world.tokens.values()
    assert world.orders == [(Control.KILL, tuple(handles.values()))]
    assert [one.is_unconfirmed for one in read_submissions(sweep.folder)] == [False]


@pytest.mark.parametrize("command", ["control", "limit"])
def test_a_backend_that_cannot_write_is_a_message(
    load: LoadSweep, world: World, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A full disk or a read-only folder: the file, the reason and the remedy."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/sweeps/small/cluster/local/limit.json")

    sweep = load()
    sweep.submit()
    monkeypatch.setattr(_Fake, command, full)
    with pytest.raises(StorageError, match=r"local/limit\.json: cannot write: No space left on device; make room"):
        sweep.limit(1) if command == "limit" else sweep.control(Control.CANCEL, sweep.jobs())


def test_a_withdrawal_that_is_cut_short_leaves_a_record_that_can_be_read(
    load: LoadSweep, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is removed first, no record names job files that are gone: killed at each step, the sweep resumes."""
    sweep = load()
    intent = killed_in_submit(sweep, world)
    unlink = type(sweep.folder.root).unlink
    removed: list[str] = []

    def at_most_one(path: object, missing_ok: bool = False) -> None:
        if removed:
            raise Death
        removed.append(str(path))
        unlink(path, missing_ok=missing_ok)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(type(sweep.folder.root), "unlink", at_most_one)
        with pytest.raises(Death):
            withdraw(sweep.folder, intent)
    assert load().submit().n_cells == 8


def test_a_job_without_unfinished_cells_matches_no_condition(load: LoadSweep, world: World) -> None:
    """Its cells are done and it ends by itself: a hold or a cancel of some cells does not mean it."""
    sweep = load()
    sweep.submit()
    first, second = jobs_of(sweep)
    write_shard(first)
    set_state(world, first.job, JobState.RUNNING)
    experiment = second.cohorts[0].experiment
    assert [job.name for job in sweep.jobs([f"experiment={first.cohorts[0].experiment}"])] == []
    assert [job.name for job in sweep.jobs([f"experiment={experiment}"])] == [second.job]
    assert [job.name for job in sweep.jobs()] == [first.job, second.job]
