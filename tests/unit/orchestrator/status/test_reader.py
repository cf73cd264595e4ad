"""Status: what is said of cells and jobs from shards, heartbeats and the cluster's word."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from rich.console import Console

from cluster.backend import ClusterUnavailable, HandleStatus, JobState
from orchestrator.backends.submissions import read_submissions, save
from orchestrator.cli.render import faults_view, status_line, status_view
from orchestrator.status.cell_state import CellState
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import (
    FakeCluster,
    World,
    die,
    finish,
    jobs_of,
    set_state,
    write_progress,
    write_shard,
)
from workers.files.failure import FailureClass
from workers.files.progress import AttemptState


@pytest.fixture
def sweep(load: LoadSweep, world: World) -> Sweep:
    """A sweep whose two jobs of four cells are submitted."""
    sweep = load()
    sweep.submit()
    return sweep


def age_submission(sweep: Sweep, world: World) -> None:
    """Let the jobs have been submitted long ago, and the scheduler have forgotten them."""
    for submission in read_submissions(sweep.folder):
        save(sweep.folder, submission, created=time.time() - 3600)
    world.states.clear()


def test_submitted_cells_wait(sweep: Sweep, world: World) -> None:
    """Cells of jobs that wait are waiting, and the cluster is asked once."""
    world.n_polls = 0
    status = sweep.status()
    assert status.counts == {CellState.WAITING: 8}
    assert world.n_polls == 1


def test_cells_in_flight_are_running(sweep: Sweep, world: World) -> None:
    """A running job's heartbeat names the cells in flight; its others wait."""
    job = jobs_of(sweep)[0]
    keys = [cell.key for cell in job.cohorts[0].cells]
    set_state(world, job.job, JobState.RUNNING)
    write_progress(job, AttemptState.RUNNING, running=keys[:2])
    cells = sweep.status().cells
    assert [cells[key].state for key in keys] == [CellState.RUNNING] * 2 + [CellState.WAITING] * 2


def test_a_job_that_loads_its_model_is_starting(sweep: Sweep, world: World) -> None:
    """Its process runs, before and after it has written its first heartbeat; once it trains it runs."""
    job, _ = jobs_of(sweep)
    set_state(world, job.job, JobState.RUNNING)

    def shown() -> tuple[bool, str]:
        found = sweep.status()
        text = Console(width=200)
        with text.capture() as said:
            text.print(status_view(found))
        line = next(line for line in said.get().splitlines() if line.startswith(job.job))
        return next(one for one in found.jobs if one.name == job.job).is_starting, line

    assert shown()[0]
    write_progress(job, AttemptState.RUNNING, phase="start")
    is_starting, line = shown()
    assert is_starting
    assert "STARTING" in line
    assert "1 starting" in status_line(sweep.status())
    key = job.cohorts[0].cells[0].key
    assert sweep.status().cells[key].reason == "its job is starting: it loads the model"
    write_progress(job, AttemptState.RUNNING, phase="train")
    is_starting, line = shown()
    assert not is_starting
    assert "RUNNING" in line


@pytest.mark.parametrize(
    ("found", "least", "most"),
    [
        ({"steps_total": 100, "steps_done": 50, "eta_s": 500.0}, 490.0, 500.0),
        ({"steps_total": 100, "steps_done": 100, "eta_s": 0.0}, 0.0, 0.0),
    ],
    ids=["in training", "only evaluation left"],
)
def test_a_running_job_says_itself_how_long_it_takes(
    sweep: Sweep, world: World, found: dict[str, float], least: float, most: float
) -> None:
    """Its own estimate counts, not the plan's; trained to the end it is nearly done."""
    first, _ = jobs_of(sweep)
    set_state(world, first.job, JobState.RUNNING)
    write_progress(first, AttemptState.RUNNING, **found)
    job = next(job for job in sweep.status().jobs if job.name == first.job)
    assert least <= job.eta_s <= most


def test_done_is_what_shards_say(sweep: Sweep, world: World) -> None:
    """A job that completed without rows has missing cells; one with rows has done ones."""
    first, second = jobs_of(sweep)
    finish(world, first)
    write_progress(second, AttemptState.FINISHED)
    set_state(world, second.job, JobState.COMPLETED)
    status = sweep.status()
    assert status.counts == {CellState.DONE: 4, CellState.MISSING: 4}
    assert not status.is_done


def test_rows_of_a_job_that_ends_while_it_is_asked_about_are_seen(
    sweep: Sweep, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last rows come between the look at the shards and the cluster's word that it is over: none is missing."""
    ask = FakeCluster.poll

    def end_and_ask(cluster: FakeCluster, handles: Sequence[str]) -> dict[str, HandleStatus]:
        for job in jobs_of(sweep):
            finish(world, job)
        return ask(cluster, handles)

    monkeypatch.setattr(FakeCluster, "poll", end_and_ask)
    assert sweep.status().counts == {CellState.DONE: 8}


def test_finished_jobs_are_not_asked_about(sweep: Sweep, world: World) -> None:
    """A sweep that our own files show to be done needs no scheduler."""
    for job in jobs_of(sweep):
        finish(world, job)
    world.fails_with = ClusterUnavailable("down")
    status = sweep.status()
    assert status.is_done
    assert status.notes == ()


def test_unanswered_question_leaves_the_last_state(sweep: Sweep, world: World) -> None:
    """A scheduler that does not answer proves nothing: cells still wait, and the status says so."""
    age_submission(sweep, world)
    world.fails_with = ClusterUnavailable("down")
    status = sweep.status()
    assert status.counts == {CellState.WAITING: 8}
    assert "did not answer" in status.notes[0]


def test_forgotten_job_with_a_heartbeat_runs(sweep: Sweep, world: World) -> None:
    """A job that the scheduler does not show is running while its heartbeat is fresh."""
    job = jobs_of(sweep)[0]
    age_submission(sweep, world)
    write_progress(job, AttemptState.RUNNING)
    found = {one.name: one for one in sweep.status().jobs}[job.job]
    assert (found.state, found.is_lost) == (JobState.RUNNING, False)


def test_job_that_nobody_sees_is_lost_after_a_while(sweep: Sweep, world: World) -> None:
    """Neither scheduler nor heartbeat for `lost_after_s`: its cells are free again, not before."""
    world.states.clear()
    assert sweep.status().counts == {CellState.WAITING: 8}
    age_submission(sweep, world)
    status = sweep.status()
    assert all(job.is_lost for job in status.jobs)
    assert status.counts == {CellState.MISSING: 8}


def test_cancelled_cells_are_missing_and_failed_ones_failed(sweep: Sweep, world: World) -> None:
    """How a job ended decides what its cells without rows are called."""
    first, second = jobs_of(sweep)
    write_progress(first, AttemptState.INTERRUPTED, kind=FailureClass.PREEMPTED)
    set_state(world, first.job, JobState.CANCELLED)
    write_progress(second, AttemptState.FAILED, kind=FailureClass.BUG)
    set_state(world, second.job, JobState.FAILED)
    status = sweep.status()
    assert status.counts == {CellState.MISSING: 4, CellState.FAILED: 4}
    assert [job.failure.kind for job in status.jobs if job.failure] == [FailureClass.CANCELLED, FailureClass.BUG]


def test_killed_worker_is_blamed_on_its_node(sweep: Sweep, world: World) -> None:
    """A worker that left no word while the scheduler says FAILED died with its node."""
    job = jobs_of(sweep)[0]
    write_progress(job, AttemptState.RUNNING, updated=time.time() - 999)
    set_state(world, job.job, JobState.FAILED)
    (failed,) = [one for one in sweep.status().jobs if one.name == job.job]
    assert failed.failure is not None
    assert failed.failure.kind is FailureClass.NODE
    assert "left no word" in failed.failure.message


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (65, FailureClass.BAD_INPUT),
        (70, FailureClass.BUG),
        (71, FailureClass.OUT_OF_MEMORY),
        (74, FailureClass.NODE),
        (78, FailureClass.SETUP),
        (1, FailureClass.START),
        (-6, FailureClass.START),
        (-9, FailureClass.NODE),
    ],
)
def test_an_exit_code_is_the_class_of_a_worker_that_could_not_write(
    sweep: Sweep, world: World, code: int, kind: FailureClass
) -> None:
    """Its own codes name the class; another end before it began is a death at the start, unless it was killed."""
    job = jobs_of(sweep)[0]
    (sweep.folder.progress / f"{job.job}-0001.json").touch()  # claimed; the disk is full
    die(world, job.job, code)
    (failed,) = [one for one in sweep.status().jobs if one.name == job.job]
    assert failed.failure is not None
    assert failed.failure.kind is kind
    assert failed.attempts[-1].failure == failed.failure


def test_a_worker_that_died_at_work_died_with_its_node(sweep: Sweep, world: World) -> None:
    """An exit code that says nothing, of an attempt that had cells in its hands, is the node's."""
    job = jobs_of(sweep)[0]
    write_progress(job, AttemptState.RUNNING, phase="train", updated=time.time() - 999)
    die(world, job.job, 1)
    (failed,) = [one for one in sweep.status().jobs if one.name == job.job]
    assert failed.failure is not None
    assert failed.failure.kind is FailureClass.NODE


def test_errors_show_how_the_log_ends(sweep: Sweep, world: World) -> None:
    """Where the worker left no word, the last line of its log is shown with the fault."""
    job = jobs_of(sweep)[0]
    (sweep.folder.logs / f"{job.job}.log").write_text("starting\nOSError: No space left on device\n\n")
    die(world, job.job, 74)
    (fault,) = sweep.errors()
    assert (fault.kind, fault.log_line) == (FailureClass.NODE, "OSError: No space left on device")
    console = Console(width=200)
    with console.capture() as printed:
        console.print(faults_view([fault], with_traceback=False))
    assert "its log ends: OSError: No space left on device" in printed.get()


def test_a_first_look_decides_for_no_lower_gate(sweep: Sweep, load: LoadSweep, world: World) -> None:
    """A model that few prompts kept out is asked again under a lower gate, and stays out under the same one."""
    for job in jobs_of(sweep):
        reason = "task accuracy 0.3000 of 64 of 1000 prompts is below the gate's 0.8000"
        write_shard(job, status="skipped", reason=reason, task_accuracy=0.3)
        set_state(world, job.job, JobState.COMPLETED)
    assert sweep.status().counts == {CellState.SKIPPED: 8}
    assert load(gate={"task_accuracy": 0.35}).status().counts == {CellState.MISSING: 8}


def test_skipped_cell_runs_under_a_lower_gate(sweep: Sweep, load: LoadSweep, world: World) -> None:
    """A cell that the gate kept out is skipped, until the spec's gate lets it in."""
    for job in jobs_of(sweep):
        write_shard(job, status="skipped", reason="task accuracy", task_accuracy=0.7)
        write_progress(job, AttemptState.FINISHED)
        set_state(world, job.job, JobState.COMPLETED)
    assert sweep.status().counts == {CellState.SKIPPED: 8}
    assert load(gate={"task_accuracy": 0.6}).status().counts == {CellState.MISSING: 8}


def test_a_cell_that_its_method_has_no_meaning_for_is_settled(sweep: Sweep, load: LoadSweep, world: World) -> None:
    """No gate kept it out, so no gate and no resume will ever run it, nor a further setting: the sweep is done, and
    `check` remarks on it with the reason."""
    first, second = jobs_of(sweep)
    finish(world, first)
    write_shard(second, status="skipped", reason="k: 2 x 40 dimensions do not fit", task_accuracy=None)
    write_progress(second, AttemptState.FINISHED)
    set_state(world, second.job, JobState.COMPLETED)
    assert sweep.status().counts == {CellState.DONE: 4, CellState.INAPPLICABLE: 4}
    assert sweep.resume().n_cells == 0
    found = sweep.check()
    assert (found.is_done, found.n_done, found.problems) == (True, 4, ())
    assert found.remarks == ("4 cells inapplicable, for instance: k: 2 x 40 dimensions do not fit",)
    grown = load(settings=[{"name": "right", "keep": "correct"}])
    assert grown.status().counts == {CellState.MISSING: 4, CellState.INAPPLICABLE: 4}


def test_cell_without_a_wanted_setting_is_missing(sweep: Sweep, load: LoadSweep, world: World) -> None:
    """A setting added later makes the cells that it is meant for missing, and no others."""
    for job in jobs_of(sweep):
        finish(world, job)
    grown = load(settings=[{"name": "right", "keep": "correct", "experiments": ["left_boundary"]}])
    assert grown.status().counts == {CellState.DONE: 4, CellState.MISSING: 4}


def test_hours_count_every_attempt(sweep: Sweep, world: World) -> None:
    """GPU-hours used are those of all attempts of all jobs."""
    job = jobs_of(sweep)[0]
    for attempt in (1, 2):
        write_progress(job, AttemptState.INTERRUPTED, attempt=attempt, kind=FailureClass.PREEMPTED)
    assert sweep.status().gpu_hours_used == pytest.approx(2 * 60 / 3600)


def test_lost_work_is_that_of_attempts_that_ended_unsaved(sweep: Sweep, world: World) -> None:
    """The fake's attempts work 60 s and save nothing: one that another followed is lost, one that continues is not."""
    job = jobs_of(sweep)[0]
    set_state(world, job.job, JobState.RUNNING)
    write_progress(job, AttemptState.RUNNING, attempt=1)
    assert sweep.status().jobs[0].lost_s == 0.0
    write_progress(job, AttemptState.RUNNING, attempt=2)
    assert sweep.status().jobs[0].lost_s == pytest.approx(60.0)
    set_state(world, job.job, JobState.NODE_FAIL)
    assert sweep.status().jobs[0].lost_s == pytest.approx(120.0)
