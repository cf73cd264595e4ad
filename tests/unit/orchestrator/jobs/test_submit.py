"""Submit and resume: what is run again, how, where it is written down, and what a death in between costs."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.backend import ClusterUnavailable, ClusterUsageError, NothingSent
from cluster.process import ProcessId
from orchestrator.backends.submissions import claim_submission, read_submissions, save
from orchestrator.errors import SpecError, StorageError, SweepBusy, SweepConflict
from orchestrator.jobs import submit as submitting
from orchestrator.status.states import CellState
from orchestrator.sweep import Sweep
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import (
    Death,
    World,
    fail,
    finish,
    job_of,
    jobs_of,
    keys_of,
    killed_in_submit,
    newest_jobs,
)
from workers.files.failure import FailureClass
from workers.tasks import price_tagging


def test_submit_hands_over_each_cell_once(load: LoadSweep, world: World) -> None:
    """All cells are in the jobs, and the requests run the worker on the job files."""
    sweep = load()
    receipt = sweep.submit()
    assert keys_of(jobs_of(sweep)) == sorted(cell.key for _, cell in sweep.grid.cells())
    assert receipt.n_cells == 8
    request = world.requests["r1-0001"]
    assert request.argv[1:] == ("-m", "workers", str(sweep.folder.job_file("r1-0001")))


def test_second_submit_finds_nothing_to_run(load: LoadSweep, world: World) -> None:
    """What waits or runs is not submitted again, and no record is left of the vain call."""
    sweep = load()
    sweep.submit()
    assert sweep.submit().submission is None
    assert len(read_submissions(sweep.folder)) == 1


def test_grown_grid_runs_the_new_cells_only(load: LoadSweep, world: World) -> None:
    """Another layer in the spec, submitted again: the new cells and no others."""
    sweep = load()
    sweep.submit()
    for job in jobs_of(sweep):
        finish(world, job)
    old = keys_of(jobs_of(sweep))
    grid = {"experiments": ["left_boundary", "bracket_identity"], "layers": [0, 1, 2], "positions": "80..81"}
    grown = load(grid=grid)
    grown.submit()
    assert not set(keys_of(newest_jobs(grown))) & set(old)
    assert len(keys_of(newest_jobs(grown))) == 4


def test_a_sweep_of_the_version_before_grows_by_sites(load: LoadSweep, world: World) -> None:
    """Its cells.parquet and job files know no sites: its rows stay, and only the cells at new sites are run."""
    sweep = load()
    sweep.submit()
    for job in jobs_of(sweep):
        finish(world, job)
    old = set(keys_of(jobs_of(sweep)))
    as_before_sites(sweep)
    grid = {"experiments": ["left_boundary", "bracket_identity"], "layers": [0, 1], "positions": "80..81"}
    grown = load(grid=grid | {"sites": ["block_output", {"head_output": "2..3"}]})
    plan = grown.plan()
    assert (plan.n_cells, plan.n_done, plan.n_to_run) == (24, 8, 16)
    grown.submit()
    assert not set(keys_of(newest_jobs(grown))) & old
    assert len(keys_of(newest_jobs(grown))) == 16
    assert set(grown.results()["cell_key"]) == old


def test_jobs_and_requests_name_the_heads_of_their_cells(load: LoadSweep, world: World) -> None:
    """As clusters show them."""
    grid = {"experiments": ["left_boundary"], "layers": 1, "positions": 81, "sites": {"head_output": "1..3"}}
    load(grid=grid).submit()
    assert world.requests["r1-0001"].label.startswith("left_boundary L1 h1..3 p81 s42")


def test_results_can_be_chosen_by_site_and_unit(load: LoadSweep, world: World) -> None:
    """`site=` and `unit=` of `results`; a unit is a whole number, also beside cells that have none."""
    grid = {"experiments": ["left_boundary"], "layers": 1, "positions": 81}
    sweep = load(grid=grid | {"sites": ["block_output", {"head_output": "1..3"}]})
    sweep.submit()
    for job in jobs_of(sweep):
        finish(world, job)
    rows = sweep.results()
    assert len(rows) == 4
    assert rows["unit"].dropna().tolist() == [1, 2, 3]
    assert str(rows["unit"].dtype) == "Int64"
    assert sweep.results(where=["site=head_output", "unit=2..5"])["unit"].tolist() == [2, 3]
    assert sweep.query("SELECT unit FROM cells WHERE site = 'head_output' ORDER BY unit")["unit"].tolist() == [1, 2, 3]


def as_before_sites(sweep: Sweep) -> None:
    """Write the sweep's cells.parquet and job files anew as the version before sites wrote them."""
    table = pq.read_table(sweep.folder.cells)
    older = table.drop_columns(["site", "unit", "place"])
    metadata = table.schema.metadata | {b"schema_version": b"1"}
    pq.write_table(older.replace_schema_metadata(metadata), sweep.folder.cells)
    for path in sweep.folder.jobs.glob("*.json"):
        raw = json.loads(path.read_text()) | {"schema": 1}
        for cell in (cell for cohort in raw["cohorts"] for cell in cohort["cells"]):
            place = cell.pop("place")
            cell |= {"layer": place["layer"], "position": place["position"]}
        path.write_text(json.dumps(raw))


def test_other_science_under_the_same_name_is_refused(load: LoadSweep, world: World) -> None:
    """A sweep of this name with another spec: the difference is shown, nothing is touched."""
    sweep = load()
    sweep.submit()
    before = sweep.folder.spec.read_text()
    with pytest.raises(SweepConflict, match=r"data\.n_train: 20000 there, 100 in .*small\.yaml"):
        load(data={"n_train": 100})
    assert sweep.folder.spec.read_text() == before


def test_refused_submission_leaves_nothing(load: LoadSweep, world: World) -> None:
    """A backend that wants the spec mended: no folder, no record, no job."""
    world.fails_with = ClusterUsageError("no such partition")
    sweep = load()
    with pytest.raises(ClusterUsageError):
        sweep.submit()
    assert not sweep.folder.root.exists()


def test_refused_submission_leaves_an_old_sweep_as_it_was(load: LoadSweep, world: World) -> None:
    """A refused growth of a sweep keeps the old spec and cells; only its number is spent."""
    load().submit()
    world.fails_with = ClusterUsageError("no such partition")
    grown = load(grid={"experiments": ["left_boundary"], "layers": "all", "positions": 81})
    before = {path: path.read_bytes() for path in grown.folder.root.rglob("*.*") if path.is_file()}
    world.states.clear()
    with pytest.raises(ClusterUsageError):
        grown.submit()
    after = {path: path.read_bytes() for path in grown.folder.root.rglob("*.*") if path.is_file()}
    assert after == before | {grown.folder.submissions / "r2.withdrawn": b""}


def test_missing_weights_are_named(load: LoadSweep, world: World, tmp_path: Path, demo_model: Path) -> None:
    """A checkpoint that can be planned for but not run is refused at submit, and nothing is written."""
    model = tmp_path / "bare"
    model.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (model / name).write_bytes((demo_model / name).read_bytes())
    sweep = load(model={"path": str(model), "dtype": "float32"})
    assert sweep.plan(on="local").n_to_run == 8
    with pytest.raises(SpecError, match=r"key `model\.path`: .*there are no weights"):
        sweep.submit()
    assert not sweep.folder.root.exists()


def test_death_after_handing_over_is_found_by_the_token(load: LoadSweep, world: World) -> None:
    """The process dies before it can write the handles down: resume asks by the token, and submits nothing twice."""
    sweep = load()
    intent = killed_in_submit(sweep, world)
    assert sweep.status().counts == {CellState.WAITING: 8}
    assert sweep.resume().submission is None
    (confirmed,) = read_submissions(sweep.folder)
    assert confirmed.handles == world.tokens[intent.token]


def test_jobs_whose_record_is_gone_share_no_name_with_later_ones(load: LoadSweep, world: World) -> None:
    """They may still run: what they write is not mixed up with what the new jobs write."""
    sweep = load()
    sweep.submit()
    before = set(world.requests)
    (sweep.folder.submissions / "r1.json").unlink()
    receipt = load().submit()
    assert receipt.submission is not None
    assert receipt.submission.number == 2
    assert before.isdisjoint(receipt.submission.jobs)


def test_silent_scheduler_leaves_the_question_open(load: LoadSweep, world: World) -> None:
    """A time-out on submit is no refusal: the intent stays, and resume completes it."""
    sweep = load()
    world.fails_with = ClusterUnavailable("timed out")
    with pytest.raises(SweepBusy, match="resume small"):
        sweep.submit()
    world.fails_with = None
    sweep.resume()
    assert [len(submission.handles) for submission in read_submissions(sweep.folder)] == [2]


def test_a_scheduler_that_was_sent_nothing_leaves_nothing_open(load: LoadSweep, world: World) -> None:
    """Silent before any job was sent, at first or when an intent is taken up again: the cells are free for another
    backend, and a new sweep's folder is gone."""
    sweep = load()
    world.fails_with = NothingSent("no controller")
    with pytest.raises(SweepBusy, match=r"no controller\nnothing was submitted; try again later"):
        sweep.submit()
    assert not sweep.folder.root.exists()
    world.fails_with = ClusterUnavailable("timed out")
    with pytest.raises(SweepBusy, match="resume small"):
        sweep.submit()
    world.fails_with = NothingSent("no controller")
    with pytest.raises(SweepBusy, match="nothing was submitted"):
        sweep.resume()
    assert not read_submissions(sweep.folder)
    world.fails_with = None
    assert sweep.submit().n_cells == 8


def test_two_submitters_at_once(load: LoadSweep, world: World) -> None:
    """While another living process chooses jobs, a second one is told to wait."""
    sweep = load()
    sweep.submit()
    claimed = claim_submission(sweep.folder, backend="local", options={}, reason="submit")
    other = ProcessId.of(os.getppid())
    save(sweep.folder, claimed, pid=other.pid, started=other.started)
    with pytest.raises(SweepBusy, match=f"process {other.pid} on"):
        sweep.submit()


def test_claim_of_a_dead_process_is_passed_over(load: LoadSweep, world: World) -> None:
    """A process that died while it chose jobs blocks nobody."""
    sweep = load()
    sweep.submit()
    claimed = claim_submission(sweep.folder, backend="local", options={}, reason="submit")
    save(sweep.folder, claimed, pid=4194304)
    assert sweep.submit().submission is None


def test_reused_rows_are_not_run_again(load: LoadSweep, world: World) -> None:
    """Another sweep's rows of the same cells count here, and keep saying where they came from."""
    first = load()
    first.submit()
    for job in jobs_of(first):
        finish(world, job)
    grid = {"experiments": ["left_boundary"], "layers": [0, 1, 2], "positions": 81}
    second = load(name="second", grid=grid)
    receipt = second.submit(reuse=["small"])
    assert receipt.n_cells == 1
    assert set(second.results()["sweep"]) == {"small"}


def test_a_sweep_that_another_has_done_already_runs_to_its_end_at_once(load: LoadSweep, world: World) -> None:
    """Every row is reused: `run` sends nothing, `resume` finds nothing to do."""
    first = load()
    first.submit()
    for job in jobs_of(first):
        finish(world, job)
    second = load(name="second")
    assert second.run(reuse=["small"]).is_done
    assert second.resume().submission is None
    assert jobs_of(second) == []


def test_cancel_by_filter_takes_whole_jobs(load: LoadSweep, world: World) -> None:
    """A filter chooses the jobs whose unfinished cells all match."""
    sweep = load()
    sweep.submit()
    (chosen,) = sweep.jobs(["experiment=left_boundary"])
    assert job_of(sweep, chosen.name).cohorts[0].experiment == "left_boundary"
    assert sweep.jobs(["layer=0"]) == []


def test_planned_sweep_takes_no_new_grid(load: LoadSweep, world: World) -> None:
    """An override of the grid on a folder would be lost; it is refused with what can be set."""
    sweep = load()
    sweep.submit()
    with pytest.raises(SpecError, match="give the spec file"):
        Sweep.load(sweep.folder.root, overrides=["grid.layers=all"])
    assert Sweep.load(sweep.folder.root, overrides=["jobs.target_h=3"]).spec.jobs.target_h == 3


def test_users_task_file_travels_with_the_sweep(load: LoadSweep, world: World, tmp_path: Path) -> None:
    """The file's hash is in every cell key, and its copy in the folder; an edited file is another science."""
    source = Path(price_tagging.__file__).read_text()
    file = tmp_path / "mine.py"
    file.write_text(source)
    sweep = load(task={"name": "price_tagging", "file": "mine.py"})
    sweep.submit()
    (digest,) = {strand.stream.task["file_sha256"] for strand in sweep.grid.strands}
    assert sweep.folder.task_file(str(digest)).read_text() == source
    file.write_text(source + "# edited\n")
    with pytest.raises(SweepConflict, match=r"task\.file_sha256"):
        load(task={"name": "price_tagging", "file": "mine.py"})


@pytest.mark.parametrize("module", ["folder", "jobs.submit", "backends.submissions"])
def test_full_disk_leaves_nothing(load: LoadSweep, world: World, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """A disk that fills up while the spec, a job file or the record is written: one message, no folder, no job."""

    def full(path: Path, content: bytes | str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sweep = load()
    monkeypatch.setattr(f"orchestrator.{module}.replace_file", full)
    with pytest.raises(StorageError, match="No space left on device"):
        sweep.submit()
    assert not sweep.folder.root.exists()
    assert world.requests == {}


def test_full_disk_leaves_no_job_files_in_a_sweep(
    load: LoadSweep, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record of later jobs cannot be written: nothing names their files, which are removed."""
    load().submit()

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    grown = load(
        grid={"experiments": ["left_boundary", "bracket_identity"], "layers": [0, 1, 2], "positions": "80..81"}
    )
    before = sorted(grown.folder.jobs.iterdir())
    monkeypatch.setattr(submitting, "save", full)
    with pytest.raises(StorageError, match="No space left on device"):
        grown.submit()
    assert sorted(grown.folder.jobs.iterdir()) == before


def test_full_disk_after_submission_loses_no_job(
    load: LoadSweep, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs are submitted and the disk is full: the message says so, and resume finds them."""
    sweep = load()
    with monkeypatch.context() as patched:
        save_record = submitting.save

        def full_at_the_end(*arguments: Any, **changes: Any) -> Any:
            if "handles" in changes:
                raise OSError(errno.ENOSPC, "No space left on device")
            return save_record(*arguments, **changes)

        patched.setattr(submitting, "save", full_at_the_end)
        with pytest.raises(StorageError, match="resume small"):
            sweep.submit()
    assert sweep.resume().submission is None
    assert len(world.tokens) == 1


def test_submit_after_a_death_confirms_what_was_handed_over(load: LoadSweep, world: World) -> None:
    """`run` again is as good as `resume`: nothing stays in doubt for ever."""
    world.dies = True
    with pytest.raises(Death):
        load().submit()
    world.dies = False
    sweep = load()
    assert sweep.submit().submission is None
    assert [submission.is_unconfirmed for submission in read_submissions(sweep.folder)] == [False]


def test_where_hands_over_only_the_cells_that_match(load: LoadSweep, world: World) -> None:
    """Submit, then resume, some of the cells; the others stay missing, and a later submit runs them."""
    sweep = load()
    assert sweep.submit(where=["layer=0"]).n_cells == 4
    assert {cell.place.layer for job in jobs_of(sweep) for cohort in job.cohorts for cell in cohort.cells} == {0}
    for job in jobs_of(sweep):
        fail(world, job, FailureClass.BAD_INPUT)
    assert sweep.resume(where=["layer=0", "position=80"]).n_cells == 2
    assert sweep.resume(where=["layer=1", "position=80"]).n_cells == 2
    for job in jobs_of(sweep):
        finish(world, job)
    status = sweep.status()
    assert sweep.is_settled(status, ["position=80"])
    assert not sweep.is_settled(status)
    assert not sweep.is_settled(status, ["position=81", "layer=1"])
    assert sweep.submit().n_cells == 2


def test_where_names_a_value_that_no_cell_has(load: LoadSweep, world: World) -> None:
    """Nothing is submitted, and the values that there are are named."""
    sweep = load()
    with pytest.raises(SpecError, match="layer"):
        sweep.submit(where=["layer=7"])
    assert world.tokens == {}
