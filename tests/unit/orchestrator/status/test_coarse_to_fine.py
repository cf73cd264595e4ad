"""Coarse to fine: the same decisions from the same results, and a maximum that nothing promising lies next to."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.backend import JobState
from orchestrator.grid.expand import Grid
from orchestrator.grid.model import GridModel
from orchestrator.jobs.retry import Mode
from orchestrator.spec.schema import CoarseSection
from orchestrator.status.coarse_to_fine import WAITS, left_out
from orchestrator.status.states import CellState
from orchestrator.store.statistics import wilson_interval
from orchestrator.store.store import RowState
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, jobs_of, set_state, write_progress, write_shard
from tests.unit.orchestrator.plan.test_packing import SMALL
from tests.unit.orchestrator.specs import strand_of
from workers.files.job import JobCell
from workers.files.place import Place
from workers.files.progress import AttemptState

N_PAIRS = 1000
Rows = dict[tuple[str, str], RowState]


def grid_of(n_layers: int, n_positions: int, seeds: tuple[int, ...] = (42,)) -> Grid:
    """One experiment's map."""
    strands = [strand_of(layers=range(n_layers), positions=range(n_positions), seed=seed) for seed in seeds]
    return Grid(models=(GridModel(name="", info=SMALL),), strands=tuple(strands))


def row(n_correct: int | None, status: str = "done") -> RowState:
    return RowState(status=status, reason="", job="", task_accuracy=0.9, n_correct=n_correct, n_total=N_PAIRS)


def key(layer: int, position: int, seed: int = 42) -> str:
    return f"left_boundary-{seed}-{layer}-{position}"


def keys_of(grid: Grid) -> set[str]:
    return {cell.key for _, cell in grid.cells()}


def waves(grid: Grid, truth: Callable[[str], int], section: CoarseSection) -> list[set[str]]:
    """The cells run in each round, when each is waited for."""
    rows: Rows = {}
    rounds: list[set[str]] = []
    while True:
        done = {cell for cell, _ in rows}
        wanted = keys_of(grid) - set(left_out(grid, section, done, rows)) - done
        if not wanted:
            return rounds
        rounds.append(wanted)
        rows |= {(cell, "main"): row(truth(cell)) for cell in wanted}


def peaked(layer: int, position: int) -> Callable[[str], int]:
    """900 of 1,000 at the peak, 60 less with each step away from it, 500 far off."""

    def truth(cell: str) -> int:
        at = [int(part) for part in cell.split("-")[2:]]
        return max(900 - 60 * max(abs(at[0] - layer), abs(at[1] - position)), 500)

    return truth


def test_it_begins_with_every_nth_and_the_ends() -> None:
    """Layers 0, 3, 6 and 7 of 8; positions 0, 4, 8 and 9 of 10; the others wait for these."""
    grid = grid_of(8, 10)
    out = left_out(grid, CoarseSection(layers=3, positions=4), set(), {})
    assert keys_of(grid) - set(out) == {key(layer, at) for layer in (0, 3, 6, 7) for at in (0, 4, 8, 9)}
    assert set(out.values()) == {WAITS}


def test_it_climbs_to_a_peak_between_the_coarse_places() -> None:
    """A peak at layer 2, position 6 is measured with all that is next to it, in fewer than half of 12 x 13 cells."""
    section = CoarseSection(layers=4, positions=4)
    rounds = waves(grid_of(12, 13), peaked(2, 6), section)
    run = set().union(*rounds)
    assert {key(layer, at) for layer in (1, 2, 3) for at in (5, 6, 7)} <= run
    assert len(run) < 12 * 13 / 2


def test_on_a_flat_map_nothing_is_left_out() -> None:
    """Where any place may be the best, every place is measured."""
    assert set().union(*waves(grid_of(5, 6), lambda _: 500, CoarseSection())) == keys_of(grid_of(5, 6))


def test_the_reason_names_the_best_place_and_its_bound() -> None:
    """What was left out in the end, was so for want of a promising neighbour."""
    grid, truth = grid_of(8, 9), peaked(0, 0)
    rows = {(cell, "main"): row(truth(cell)) for cell in keys_of(grid)}
    out = left_out(grid, CoarseSection(layers=7, positions=8), keys_of(grid), rows)
    low, _ = wilson_interval(900, N_PAIRS, confidence=1 - 0.05 / 72)
    reason = f"coarse to fine: next to no place that may be the best (L0 p0, {low:.3f} or more)"
    assert set(out.values()) == {reason}
    assert key(1, 1) not in out
    assert key(3, 3) in out


def test_one_good_seed_is_enough_and_all_seeds_are_run() -> None:
    """The highest seed of a place counts; its neighbours are run with every seed."""
    grid = grid_of(5, 5, seeds=(1, 2))
    run = set().union(
        *waves(grid, lambda cell: 900 if cell == key(0, 0, 2) else 500, CoarseSection(layers=4, positions=4))
    )
    assert {key(0, 1, 1), key(1, 1, 2)} <= run
    assert key(3, 3, 1) not in run


def test_cells_without_a_number_promise_nothing() -> None:
    """Diverged ones are passed over; where the gate kept all out, that is the reason."""
    grid, section = grid_of(5, 5), CoarseSection(layers=4, positions=4)
    corners = {key(layer, at) for layer in (0, 4) for at in (0, 4)}
    skipped: Rows = {(cell, "main"): row(None, "skipped") for cell in corners}
    assert set(left_out(grid, section, corners, skipped).values()) == {
        "coarse to fine: no place of the map was measured"
    }
    one = skipped | {(key(0, 0), "main"): row(None, "failed"), (key(4, 4), "main"): row(700)}
    assert keys_of(grid) - set(left_out(grid, section, corners, one)) == corners | {key(3, 3), key(3, 4), key(4, 3)}


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(400, 1000), min_size=30, max_size=30),
    steps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    order=st.integers(0, 1000),
)
def test_the_same_cells_are_run_whatever_ends_first(counts: list[int], steps: tuple[int, int], order: int) -> None:
    """One cell at a time in any order ends with the same choice as whole rounds; and in the end no place that may be
    the best has a neighbour that was left out."""
    grid, section = grid_of(5, 6), CoarseSection(layers=steps[0], positions=steps[1])
    values = dict(zip(sorted(keys_of(grid)), counts, strict=True))
    run = set().union(*waves(grid, values.__getitem__, section))
    rng, rows = random.Random(order), {}
    while wanted := sorted(
        keys_of(grid) - set(left_out(grid, section, {cell for cell, _ in rows}, rows)) - {cell for cell, _ in rows}
    ):
        cell = rng.choice(wanted)
        rows[cell, "main"] = row(values[cell])
    assert {cell for cell, _ in rows} == run
    check_closed({cell: values[cell] for cell in run}, keys_of(grid))


def check_closed(measured: Mapping[str, int], planned: set[str]) -> None:
    """No place that may be the best lies next to one that is not measured."""
    ends = {cell: wilson_interval(n, N_PAIRS, confidence=1 - 0.05 / len(planned)) for cell, n in measured.items()}
    best_low = max(low for low, _ in ends.values())
    for cell, (_, high) in ends.items():
        layer, at = (int(part) for part in cell.split("-")[2:])
        around = {key(layer + up, at + right) for up in (-1, 0, 1) for right in (-1, 0, 1)} & planned
        assert high < best_low or around <= set(measured)


@pytest.mark.parametrize("mode", [Mode.AUTO, Mode.RESUME])
def test_a_sweep_goes_on_from_round_to_round(load: LoadSweep, world: World, mode: Mode) -> None:
    """4 corners of 4 layers x 5 positions, then the neighbours of the best, until none is promising; then it is done,
    and the cells left out stay in it with the reason."""
    grid = {"experiments": ["left_boundary"], "layers": "all", "positions": "77..81"}
    sweep = load(grid=grid | {"coarse": {"layers": 4, "positions": 5}})
    assert sweep.plan().n_to_run == 4
    assert sweep.plan().n_left_out == 16
    sweep.submit()
    for n_more in (3, 0):
        assert not sweep.status().is_done
        for job in jobs_of(sweep):
            for cohort in job.cohorts:
                best = {cell.key for cell in cohort.cells if (cell.place.layer, cell.place.position) == (3, 81)}
                write_shard(job, best, attempt=1, n_correct=90)
                write_shard(job, {cell.key for cell in cohort.cells} - best, attempt=2, n_correct=50)
            for attempt in (1, 2):
                write_progress(job, AttemptState.FINISHED, attempt=attempt)
            set_state(world, job.job, JobState.COMPLETED)
        assert sweep.status().counts[CellState.MISSING] == n_more
        assert sweep.resume(mode=mode).n_cells == n_more
    found = sweep.status()
    assert found.counts == {CellState.DONE: 7, CellState.LEFT_OUT: 13}
    assert found.is_done
    assert "next to no place that may be the best (L3 p81" in sweep.check().remarks[0]
    frame = sweep.cells()
    assert (frame["state"] == "left_out").sum() == 13
    assert load(grid=grid).status().counts == {CellState.DONE: 7, CellState.MISSING: 13}


def test_each_site_is_a_map_of_its_own_and_the_best_head_counts() -> None:
    """What is chosen at one site says nothing of another; a chosen place is run with all its heads."""
    heads = [Place(layer=layer, position=0, site="head_output", unit=unit) for layer in range(5) for unit in (0, 1)]
    plain = [Place(layer=layer, position=0) for layer in range(5)]
    cells = tuple(
        JobCell(key=f"{place.site} {place.layer} {place.unit}", place=place, token="") for place in [*plain, *heads]
    )
    grid = Grid(models=(GridModel(name="", info=SMALL),), strands=(replace(strand_of(), cells=cells),))
    good = {"block_output 0 None", "head_output 4 1", "head_output 3 0"}
    rounds = waves(grid, lambda cell: 900 if cell in good else 500, CoarseSection(layers=4, positions=1))
    first = {f"{place.site} {place.layer} {place.unit}" for place in [*plain, *heads] if place.layer in (0, 4)}
    assert rounds[0] == first
    assert rounds[1] == {"block_output 1 None", "head_output 3 0", "head_output 3 1"}
    assert rounds[2] == {"head_output 2 0", "head_output 2 1"}
    assert len(rounds) == 3
