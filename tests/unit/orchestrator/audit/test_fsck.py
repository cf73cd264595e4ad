"""fsck: a whole sweep is proven, each planted damage is named, and what can be made again is."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.backend import JobState
from orchestrator.audit.findings import Audit, Severity
from orchestrator.audit.fsck import fsck
from orchestrator.backends.submissions import read_submissions
from orchestrator.errors import SweepConflict, SweepNotFound
from orchestrator.sweep import Sweep
from tests.damage import DAMAGES, Case, campaign, cases
from tests.earlier import copied
from tests.unit.orchestrator.conftest import LoadSweep, Run
from tests.unit.orchestrator.fake_cluster import World, finish, jobs_of, set_state, write_shard
from workers.files.progress import AttemptState


@pytest.fixture
def sweep(load: LoadSweep, world: World) -> Sweep:
    """A finished sweep: two jobs of four cells."""
    sweep = load()
    sweep.submit()
    for job in jobs_of(sweep):
        finish(world, job)
    return sweep


def problems(audit: Audit) -> list[str]:
    """What speaks against the sweep, a line each."""
    return [f"{one.where}: {one.problem}" for one in audit.findings if one.severity is not Severity.REMARK]


def the_problem(sweep: Sweep) -> str:
    """The one thing that speaks against the sweep."""
    (problem,) = problems(fsck(sweep.folder.root))
    return problem


def test_a_finished_sweep_is_proven(sweep: Sweep) -> None:
    """Every cell is settled once, and nothing speaks against it."""
    audit = fsck(sweep.folder.root)
    assert audit.is_proven, audit.findings
    assert (audit.n_cells, audit.n_settled, audit.n_done, audit.n_rows, audit.n_shards) == (8, 8, 8, 8, 2)


@pytest.mark.parametrize("name", ["schema_1/previous", "schema_1/halfway"])
def test_sweeps_of_earlier_versions_are_read(tmp_path: Path, name: str) -> None:
    """A finished one is proven; of a cancelled one the cells are unsettled, and nothing is damaged."""
    audit = fsck(copied(name, tmp_path))
    assert audit.is_proven == name.endswith("previous")
    assert audit.of(Severity.DAMAGE) == []


def test_cells_without_rows_are_named(load: LoadSweep, world: World) -> None:
    """A sweep in which one job has not ended is not proven: its cells wait."""
    sweep = load()
    sweep.submit()
    first, _ = jobs_of(sweep)
    finish(world, first)
    audit = fsck(sweep.folder.root)
    assert (audit.n_settled, audit.n_done) == (4, 4)
    assert [problem.partition(" (")[0] for problem in problems(audit)] == ["4 cells"]


def test_a_row_of_another_place_than_its_key_is_damage(sweep: Sweep) -> None:
    """A row whose layer is not that of its cell is named with both values."""
    job = jobs_of(sweep)[0]
    write_shard(job, layer=7)
    assert "layer 7 for 0" in the_problem(sweep)


@pytest.mark.parametrize("numbers", [{"n_correct": 71}, {"iia": 0.9}, {"n_correct": 101, "iia": 1.01}])
def test_a_row_whose_numbers_disagree_is_damage(sweep: Sweep, numbers: dict[str, Any]) -> None:
    """An IIA that is not the share of its counts cannot have been measured."""
    write_shard(jobs_of(sweep)[0], **numbers)
    assert "have numbers that cannot be" in the_problem(sweep)


def test_a_row_of_another_attempt_than_its_file_is_damage(sweep: Sweep) -> None:
    """A shard that lies under another attempt's name is told."""
    folder = sweep.folder.shards
    (folder / "r1-0001-0001.parquet").rename(folder / "r1-0001-0004.parquet")
    assert "are of another attempt than their file" in the_problem(sweep)


def test_equal_measurements_of_a_cell_are_a_remark(sweep: Sweep) -> None:
    """Two attempts raced and found the same: one row counts, and the proof holds."""
    write_shard(jobs_of(sweep)[0], attempt=2, ended=2e9, gpu_seconds=33.0, host="elsewhere")
    audit = fsck(sweep.folder.root)
    assert audit.is_proven
    assert any("4 rows were measured more than once" in one.problem for one in audit.findings)


def test_measurements_that_differ_are_damage_on_one_kind_of_device(sweep: Sweep) -> None:
    """Two results of one cell on the same GPU model are not both right; on other models they may be."""
    job = jobs_of(sweep)[0]
    key = job.cohorts[0].cells[0].key
    write_shard(job, attempt=1, gpu_name="A")
    other = {"n_correct": 60, "iia": 0.6, "attempt": 2, "ended": 2e9}
    write_shard(job, [key], gpu_name="A", **other)
    assert "measurements differ in n_correct, iia" in the_problem(sweep)
    write_shard(job, [key], gpu_name="B", **other)
    assert fsck(sweep.folder.root).is_proven


def test_two_live_jobs_of_a_cell_are_named(load: LoadSweep, world: World) -> None:
    """A cell that two jobs have at once would be computed twice."""
    sweep = load()
    sweep.submit()
    first, second = read_submissions(sweep.folder)[0].jobs
    text = sweep.folder.job_file(first).read_text(encoding="utf-8").replace(first, second)
    sweep.folder.job_file(second).write_text(text, encoding="utf-8")
    assert any("2 jobs that wait or run have it" in problem for problem in problems(fsck(sweep.folder.root)))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: folder.job_file("r1-0001").unlink(), "names the job r1-0001, whose file is gone"),
        (lambda folder: folder.job_file("r1-0001").write_text("{}"), "not a job file"),
        (lambda folder: (folder.submissions / "r1.json").unlink(), "no record names it"),
        (lambda folder: (folder.submissions / "r1.json").write_text("{"), "not a submission's record"),
    ],
    ids=["job gone", "job torn", "record gone", "record torn"],
)
def test_a_damaged_record_is_named(sweep: Sweep, spoil: Callable[[Any], None], said: str) -> None:
    """What is missing or torn of jobs and records is told, each file on its own."""
    spoil(sweep.folder)
    assert any(said in problem for problem in problems(fsck(sweep.folder.root)))


def test_a_key_that_is_not_that_of_its_parameters_is_damage(sweep: Sweep) -> None:
    """A job file that was edited would give a cell another's result."""
    path = sweep.folder.job_file("r1-0001")
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 42', '"seed": 43'), encoding="utf-8")
    assert any("is not the key of the cell's parameters" in problem for problem in problems(fsck(sweep.folder.root)))


def test_an_interrupted_handover_is_unsettled(sweep: Sweep, world: World) -> None:
    """A record whose backend may or may not have the jobs says so."""
    path = sweep.folder.submissions / "r1.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"submitted"', '"intent"'), encoding="utf-8")
    assert "handed to local, and not confirmed" in the_problem(sweep)


# Repair -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut", "zeroed", "bit flipped"])
def test_a_shard_is_written_again_from_the_store(sweep: Sweep, damage: str) -> None:
    """The rows are those of before, and the torn file is kept."""
    rows = sweep.results()
    path = sweep.folder.shards / "r1-0002-0001.parquet"
    DAMAGES[damage](path, random.Random(3))
    assert "the store still has 4 rows of it" in "".join(problems(fsck(sweep.folder.root)))
    audit = fsck(sweep.folder.root, repair=True)
    assert audit.is_proven
    assert "4 rows written again" in audit.repaired[0]
    assert Sweep.load(sweep.folder.root).results().equals(rows)
    assert (path.parent / f"_{path.name}").exists() == (damage != "deleted")


def test_a_shard_of_a_job_that_runs_is_left_to_it(sweep: Sweep, world: World) -> None:
    """A worker writes its own shard: nothing else does while it may."""
    sweep.results()
    job = jobs_of(sweep)[1]
    set_state(world, job.job, JobState.RUNNING)
    (sweep.folder.shards / f"{job.job}-0001.parquet").unlink()
    sweep.folder.progress.joinpath(f"{job.job}-0001.json").unlink()
    assert fsck(sweep.folder.root, repair=True).repaired == ()


@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut", "zeroed"])
def test_torn_cells_are_planned_anew(sweep: Sweep, damage: str) -> None:
    """The cells come from the spec, with the keys that they had."""
    keys = [cell.key for _, cell in sweep.grid.cells()]
    DAMAGES[damage](sweep.folder.cells, random.Random(5))
    assert "cells.parquet" in "".join(problems(fsck(sweep.folder.root)))
    audit = fsck(sweep.folder.root, repair=True)
    assert audit.is_proven
    assert [cell.key for _, cell in Sweep.load(sweep.folder.root).grid.cells()] == keys


def test_cells_of_another_spec_are_not_written(sweep: Sweep) -> None:
    """Where the spec's copy was edited, planning anew would disown what jobs have: nothing is changed."""
    sweep.folder.cells.write_bytes(b"")
    text = sweep.folder.spec.read_text(encoding="utf-8")
    sweep.folder.spec.write_text(text.replace("n_train: ", "n_train: 1"), encoding="utf-8")
    with pytest.raises(SweepConflict, match="lacks 8 cells that jobs have"):
        fsck(sweep.folder.root, repair=True)
    assert sweep.folder.cells.read_bytes() == b""


def test_copies_for_people_are_made_again(sweep: Sweep) -> None:
    """The spec's copy, the README, the store and its folders come back."""
    sweep.results()
    spec = sweep.folder.spec.read_text(encoding="utf-8")
    for path in (sweep.folder.spec, sweep.folder.root / "README.md", sweep.folder.store / "results.parquet"):
        path.unlink()
    audit = fsck(sweep.folder.root, repair=True)
    assert audit.is_proven
    assert audit.findings == ()
    assert sweep.folder.spec.read_text(encoding="utf-8") == spec


def test_a_repair_of_a_whole_sweep_changes_nothing(sweep: Sweep) -> None:
    """There is nothing to do, and nothing is written."""
    sweep.check()
    before = {path: path.stat().st_mtime_ns for path in sweep.folder.root.rglob("*") if path.is_file()}
    assert fsck(sweep.folder.root, repair=True).repaired == ()
    assert {path: path.stat().st_mtime_ns for path in sweep.folder.root.rglob("*") if path.is_file()} == before


# The command --------------------------------------------------------------------------------------------------------


def test_exit_codes(sweep: Sweep, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """0 proven, 1 damage, 2 no such sweep; no line is wider than a terminal."""
    assert run("fsck", str(sweep.folder.root)) == 0
    assert "proven: each of 8 planned cells is settled exactly once" in " ".join(capsys.readouterr().out.split())
    sweep.folder.job_file("r1-0001").unlink()
    assert run("fsck", str(sweep.folder.root)) == 1
    said = capsys.readouterr().out
    assert "not proven" in said
    assert [line for line in said.splitlines() if len(line) > 80 and " " in line.strip()] == []
    assert run("fsck", str(sweep.folder.root / "nowhere")) == 2


def test_json(sweep: Sweep, document: Callable[..., Any]) -> None:
    """The document has the verdict and every finding."""
    sweep.folder.job_file("r1-0001").unlink()
    found = document("fsck", str(sweep.folder.root))
    assert found["is_proven"] is False
    assert {"severity", "where", "problem", "remedy", "is_repairable"} == set(found["findings"][0])


@pytest.fixture(scope="module")
def every_case(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Every damage of every file of four sweeps, one try each."""
    return cases(tmp_path_factory.mktemp("sweeps"), seed=2, n_tries=1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_makes_the_commands_fall(every_case: list[Case], tmp_path: Path, damage: str) -> None:
    """Four files of the sweeps, drawn for each damage: exit 0, 1 or 2, and nothing is changed without --repair."""
    chosen = random.Random(f"{damage} 4").sample([case for case in every_case if case.damage == damage], 4)
    outcomes = list(campaign(tmp_path, chosen, ("fsck", "explain")))
    assert [outcome.faults for _, outcome in outcomes] == [[], [], [], []]


def test_a_spec_that_was_never_planned_has_no_files(load: LoadSweep, world: World, tmp_path: Path) -> None:
    """There is nothing to read."""
    load()
    with pytest.raises(SweepNotFound):
        fsck(tmp_path / "small.yaml", sweeps=tmp_path / "sweeps")


def test_progress_of_nobody_is_a_remark(sweep: Sweep) -> None:
    """A claimed attempt that wrote nothing settles nothing and prevents nothing."""
    (sweep.folder.progress / "r1-0001-0009.json").write_bytes(b"")
    audit = fsck(sweep.folder.root)
    assert any("died before it wrote anything" in one.problem for one in audit.findings)
    assert str(AttemptState.RUNNING) not in "".join(problems(audit))
