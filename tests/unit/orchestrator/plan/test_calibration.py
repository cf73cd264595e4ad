"""Measured jobs correct the table: the next plan of this model on this kind of device, here and in sweeps beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from cluster.backend import JobState
from orchestrator.plan.calibration import calibration
from orchestrator.plan.costs import DEVICES, CostModel
from orchestrator.plan.plan import restricted
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, jobs_of, set_state, write_progress, write_shard
from workers.files.folder import replace_file
from workers.files.job import Job
from workers.files.progress import AttemptState, read_progress

SLOWER = 2.5  # than the table says
START_S = 4.0


def work_s(sweep: Sweep, job: Job) -> float:
    """What the table says of the job's cohorts."""
    costs = CostModel(sweep.grid.models[0].info, DEVICES["cpu"], dtype="float32")
    return sum(
        costs.of(strand).cohort_s(cohort.cells)
        for cohort in job.cohorts
        for strand in restricted(sweep.grid, {cell.key for cell in cohort.cells})
    )


def finish_in(world: World, sweep: Sweep, job: Job, *, work: float, attempts: int = 1) -> None:
    """Let the job run through, its cohorts `work` times as long as the table says, after START_S."""
    seconds = work * work_s(sweep, job)
    write_shard(job, gpu_seconds=seconds / job.n_cells, attempt=attempts)
    for attempt in range(1, attempts + 1):
        write_progress(job, AttemptState.FINISHED, attempt=attempt)
        path = job.sweep_folder.progress / f"{job.sweep_folder.attempt_name(job.job, attempt)}.json"
        progress = read_progress(path)
        assert progress is not None
        replace_file(path, replace(progress, started=progress.ended - seconds - START_S).to_json())
    set_state(world, job.job, JobState.COMPLETED)


def run_through(load: LoadSweep, world: World, *, work: float = SLOWER, attempts: int = 1, **changes: Any) -> Sweep:
    """The small sweep, finished and gathered."""
    sweep = load(**changes)
    world.tokens.clear()  # those of earlier sweeps, whose jobs have the same names
    sweep.submit()
    for job in jobs_of(sweep):
        finish_in(world, sweep, job, work=work, attempts=attempts)
    list(sweep.watch(poll_s=0))
    return sweep


def test_measured_jobs_set_the_scale(load: LoadSweep, world: World) -> None:
    """Jobs that took 2.5 times the table's seconds make the next plan 2.5 times as long, with the measured start-up."""
    sweep = run_through(load, world)
    found = calibration(sweep.folder, sweep.grid.strands[0].stream, "cpu")
    assert found is not None
    assert (found.work, found.start_s, found.n_cells) == (pytest.approx(SLOWER), pytest.approx(START_S, abs=0.1), 8)


def test_next_plan_predicts_the_measured_time(load: LoadSweep, world: World) -> None:
    """After one calibration a job that was never run is predicted within a fifth of what it will take."""
    run_through(load, world)
    grid = {"experiments": ["midpoint_distance"], "layers": "all", "positions": "75..81"}
    other = load(name="other", grid=grid, local={"workers": 1})
    (planned,) = other.plan(on="local").jobs
    other.submit()
    (job,) = jobs_of(other)
    assert planned.predicted_s == pytest.approx(SLOWER * work_s(other, job) + START_S, rel=0.2)


def test_each_site_has_its_own_scale(load: LoadSweep, world: World) -> None:
    """Cells at the blocks' output took twice the table's seconds, heads in another sweep five times: a sweep that has
    either is predicted by its own, one that has both in between."""
    grid = {"experiments": ["left_boundary"], "layers": "all", "positions": "70..81"}
    heads = {"sites": [{"head_output": "all"}]}
    run_through(load, world, work=2.0, name="blocks", grid=grid)
    run_through(load, world, work=5.0, name="heads", grid=grid | heads)
    seconds = {}
    for name, sites in (("a", {}), ("b", heads), ("both", {"sites": ["block_output", *heads["sites"]]})):
        sweep = load(name=name, grid=grid | sites | {"experiments": ["bracket_identity"]}, local={"workers": 1})
        world.tokens.clear()
        planned_s = sum(job.predicted_s - START_S for job in sweep.plan(on="local").jobs)
        sweep.submit()
        seconds[name] = planned_s / sum(work_s(sweep, job) for job in jobs_of(sweep))
    assert seconds["a"] == pytest.approx(2.0, rel=0.05)
    assert seconds["b"] == pytest.approx(5.0, rel=0.05)
    assert 2.5 < seconds["both"] < 5.0


def test_measures_without_sites_are_of_all_sites(load: LoadSweep, world: World) -> None:
    """The file of a version that did not tell sites apart: its scale is the sweep's, whatever others have measured."""
    run_through(load, world, work=5.0, name="other")
    sweep = run_through(load, world)
    path = sweep.folder.store / "costs.json"
    entries = [{name: value for name, value in one.items() if name != "sites"} for one in json.loads(path.read_text())]
    path.write_text(json.dumps(entries))
    found = calibration(sweep.folder, sweep.grid.strands[0].stream, "cpu")
    assert found is not None
    assert (found.work, dict(found.sites)) == (pytest.approx(SLOWER), {})


def test_sweeps_side_by_side_learn_from_each_other(load: LoadSweep, world: World) -> None:
    """A new sweep beside a measured one says on how many cells its estimate rests."""
    run_through(load, world)
    found = load(name="other").plan(on="local").calibration
    assert found is not None
    assert found.n_cells == 8


def test_jobs_with_several_attempts_teach_nothing(load: LoadSweep, world: World) -> None:
    """What resumed from a checkpoint does not show what the whole would have taken."""
    assert load().folder.root.name == run_through(load, world, attempts=2).folder.root.name
    assert load().plan(on="local").calibration is None


def test_short_jobs_teach_nothing(load: LoadSweep, world: World) -> None:
    """In a job of some seconds the first steps, which are slow, weigh too much."""
    run_through(load, world, work=0.01)
    assert load().plan(on="local").calibration is None


def test_measures_against_another_table_are_passed_over(load: LoadSweep, world: World) -> None:
    """A ratio to a table that has changed since says nothing."""
    sweep = run_through(load, world)
    path = sweep.folder.store / "costs.json"
    entries = [entry | {"version": 0} for entry in json.loads(path.read_text())]
    path.write_text(json.dumps(entries))
    assert load().plan(on="local").calibration is None


@pytest.mark.parametrize("content", ["", "[", "{}", "[3]", '[{"version": 4}]', None])
def test_damaged_measures_are_passed_over(load: LoadSweep, world: World, content: str | None) -> None:
    """A file that is torn, of another make, or has a text for a number is a hint that nobody takes."""
    path = run_through(load, world).folder.store / "costs.json"
    assert load().plan(on="local").calibration is not None
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([one | {"work": "much"} for one in entries]) if content is None else content)
    assert load().plan(on="local").calibration is None


def test_a_setting_added_later_is_planned_without_training(load: LoadSweep, world: World) -> None:
    """Cells whose alignments are saved cost their evaluation; without them they are trained anew."""
    sweep = run_through(load, world, work=1.0)
    grown = load(settings=[{"name": "right", "keep": "correct"}])
    trained_anew = grown.plan().totals.gpu_hours
    for _, cell in sweep.grid.cells():
        path = sweep.folder.alignments / cell.key[:2] / f"{cell.key}.safetensors"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    plan = grown.plan()
    assert plan.n_to_run == 8
    start_h = sum(START_S for _ in plan.jobs) / 3600
    assert plan.totals.gpu_hours - start_h < 0.1 * trained_anew
    assert grown.submit().n_cells == 8
