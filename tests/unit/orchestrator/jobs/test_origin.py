"""A copied or moved sweep is a sweep of its own, on every backend."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.backend import Control, JobState
from orchestrator.backends.origin import Origin, origin_of
from orchestrator.backends.submissions import Stage, read_submissions, save
from orchestrator.errors import SweepNotFound
from orchestrator.status.cell_state import CellState
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, finish, jobs_of, newest_jobs, set_state


@pytest.fixture
def original(load: LoadSweep, world: World) -> Sweep:
    """One job that runs and one that waits."""
    sweep = load()
    sweep.submit()
    set_state(world, "r1-0001", JobState.RUNNING)
    return sweep


def copied(sweep: Sweep) -> Sweep:
    """Another folder with the same files."""
    return Sweep.load(shutil.copytree(sweep.folder.root, sweep.folder.root.with_name("copy")))


def moved(sweep: Sweep) -> Sweep:
    """The same folder at another place."""
    return Sweep.load(sweep.folder.root.rename(sweep.folder.root.with_name("elsewhere")))


def test_a_copys_cells_are_in_no_job(original: Sweep) -> None:
    """The original's jobs are none of the copy's; the original's are as they were."""
    assert copied(original).status().counts == {CellState.MISSING: 8}
    assert original.status().counts == {CellState.WAITING: 8}


def test_a_copy_submits_its_own_jobs(original: Sweep, world: World) -> None:
    """They name the copy's folder alone, and the copy ends without the original."""
    copy = copied(original)
    receipt = copy.resume()
    assert receipt.n_cells == 8
    for job in newest_jobs(copy):
        assert str(copy.folder.root) in str(world.requests[job.job])
        assert str(original.folder.root) not in str(world.requests[job.job])
        finish(world, job)
    assert copy.status().is_done
    assert original.status().counts == {CellState.WAITING: 8}


@pytest.mark.parametrize("action", list(Control))
def test_no_order_of_a_copy_reaches_the_original(original: Sweep, world: World, action: Control) -> None:
    """Whichever jobs are named, and none are chosen by themselves."""
    copy = copied(original)
    copy.control(action, copy.jobs())
    copy.control(action, original.jobs())
    assert world.orders == []


def test_a_copy_has_nothing_to_limit(original: Sweep) -> None:
    """Before it has submitted anything itself."""
    copy = copied(original)
    with pytest.raises(SweepNotFound, match="never submitted"):
        copy.limit(1)


def test_a_copy_does_not_confirm_the_originals_intent(original: Sweep, world: World) -> None:
    """A submission that was half-way when the folder was copied stays the original's."""
    save(original.folder, read_submissions(original.folder)[0], stage=Stage.INTENT, handles={})
    copy = copied(original)
    assert copy.status().counts == {CellState.MISSING: 8}
    world.tokens.clear()
    assert copy.resume().n_cells == 8
    (token,) = world.tokens
    assert token.startswith("copy-r2")


def test_what_a_copy_has_rows_of_stays_done(original: Sweep, world: World) -> None:
    """A job that had ended before the copy was made is the copy's too."""
    for job in jobs_of(original):
        finish(world, job)
    copy = copied(original)
    assert copy.status().is_done
    assert copy.resume().submission is None


def test_a_moved_sweep_stops_its_old_jobs_and_submits_them_anew(original: Sweep, world: World) -> None:
    """Its waiting jobs have paths that lead nowhere: resume cancels them, and what has ended then is sent again."""
    sweep = moved(original)
    handles = tuple(world.tokens[next(iter(world.tokens))].values())
    assert origin_of(sweep.folder, read_submissions(sweep.folder)[0]) is Origin.MOVED
    set_state(world, "r1-0001", JobState.FAILED)
    set_state(world, "r1-0002", JobState.CANCELLED)
    assert sweep.resume().n_cells == 8
    assert world.orders == [(Control.CANCEL, handles)]
    for job in newest_jobs(sweep):
        finish(world, job)
    assert sweep.status().is_done


def test_a_link_to_a_sweep_is_that_sweep(original: Sweep, world: World) -> None:
    """Seen by another path the folder is the same: its jobs wait."""
    link = original.folder.root.with_name("link")
    link.symlink_to(original.folder.root)
    assert Sweep.load(link).status().counts == {CellState.WAITING: 8}
    (submission,) = read_submissions(original.folder)
    assert origin_of(replace(original.folder, root=link), submission) is Origin.HERE


def test_another_sweep_at_the_old_place_is_no_original(original: Sweep, load: LoadSweep) -> None:
    """The sweep was moved, and one of the same name begun anew where it was."""
    sweep = moved(original)
    load().submit()
    (submission,) = read_submissions(sweep.folder)
    assert origin_of(sweep.folder, submission) is Origin.MOVED


def test_an_original_that_cannot_be_read_is_not_touched(original: Sweep) -> None:
    """Its record is torn: the copy keeps away from its jobs all the same."""
    copy = copied(original)
    (submission,) = read_submissions(copy.folder)
    Path(original.folder.submissions / "r1.json").write_text(json.dumps({}))
    assert origin_of(copy.folder, submission) is Origin.COPIED
