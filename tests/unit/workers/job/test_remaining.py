"""Settings added later: saved alignments are evaluated on them, and nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from tests.unit.workers.planted import Planted, save_planted
from workers.data.model_info import read_model_info
from workers.files.failure import EXIT_BAD_INPUT, FailureClass
from workers.files.folder import SweepFolder, visible_files
from workers.files.gather import Shards
from workers.files.job import Cell, Cohort, Job, JobCell, RunOptions, Setting, Stream
from workers.files.place import Place
from workers.files.progress import read_progress
from workers.files.shard import RUN_COLUMNS
from workers.job import run as job_module
from workers.job.remaining import work_of
from workers.job.run import run_job
from workers.job.saved import alignment_path, is_saved
from workers.job.stop import StopRequest
from workers.methods.settings import method_settings
from workers.tasks import TASKS

RIGHT = Setting(name="right", keep="correct")
METHODS = {
    "boundless_das": {"epochs": 2, "batch_size": 32, "rotation_lr": 1e-2},
    "das": {"epochs": 2, "batch_size": 32, "rotation_lr": 1e-2, "k": 2},
    "difference_of_means": {},
    "linear_probe": {"max_steps": 20},
    "skill_neurons": {},
    "interchange": {},
}


@pytest.fixture
def make_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Jobs of two cells on the hand-wired model, each sweep in a folder of its own."""
    monkeypatch.setitem(TASKS, "planted", Planted)
    monkeypatch.setattr(job_module.torch, "set_num_threads", lambda _n: None)
    model = save_planted(tmp_path / "model")

    def make(sweep: str, name: str, *, method: str = "boundless_das", **changes: Any) -> Job:
        folder = SweepFolder(tmp_path / sweep)
        folder.make()
        stream = Stream(
            model={"fingerprint": read_model_info(model).fingerprint, "dtype": "float32"},
            task={"name": "planted"},
            hypothesis="left_boundary",
            seed=1,
            data={"n_train": 64, "n_eval": 8, "n_test": 100},
            method=method_settings(method, METHODS[method]),
            engine="suffix",
        )
        cells = [Cell(stream=stream, place=Place(layer=layer, position=4)) for layer in (0, 1)]
        job_cells = tuple(JobCell(key=cell.key(), place=cell.place, token="=") for cell in cells)
        job = Job(
            job=name,
            sweep=sweep,
            folder=str(folder.root),
            label="",
            model_path=str(model),
            model_revision="",
            gate_task_accuracy=0.5,
            cohorts=(Cohort(experiment="left", stream=stream, cells=job_cells),),
            options=RunOptions(device="cpu"),
        )
        return replace(job, **changes)

    return make


def run(job: Job) -> list[dict[str, Any]]:
    """The job's rows, after an attempt at it that must finish; without what two runs may differ in."""
    assert run_job(job, StopRequest()) == 0
    shards = visible_files(job.sweep_folder.shards, ".parquet")
    rows = [row for shard in shards if shard.name.startswith(job.job) for row in pq.read_table(shard).to_pylist()]
    return [{name: value for name, value in row.items() if name not in RUN_COLUMNS} for row in rows]


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_options: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(job_module, "fit_cohort", refuse)


@pytest.mark.parametrize("method", ["boundless_das", "das", "difference_of_means", "linear_probe"])
def test_a_setting_added_later_gives_the_rows_of_one_that_was_there(
    make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Evaluated from the saved alignments by another job, without training: the same rows, to the last count."""
    wanted = [row for row in run(make_job("a", "j1", method=method, settings=(RIGHT,))) if row["setting"] == "right"]
    run(make_job("b", "j1", method=method))
    forbid_training(monkeypatch)
    assert run(make_job("b", "j2", method=method, settings=(RIGHT,))) == wanted
    assert [row["status"] for row in wanted] == ["done", "done"]


def test_prompts_of_unequal_length_run_in_every_engine(make_job: Callable[..., Job]) -> None:
    """Whole jobs by name, gate and further settings among them: swapping the whole vector at `last` gives the same
    counts in each engine, and they are not those of no intervention."""
    found = {}
    for engine in ("suffix", "reference"):
        settings = (Setting(name="short", task={"fillers": 1}), RIGHT)
        job = make_job(engine, "j1", method="interchange", settings=settings)
        stream = replace(job.cohorts[0].stream, task={"name": "planted", "fillers": 3}, engine=engine)
        cells = [Cell(stream=stream, place=Place(layer=layer, position=3)) for layer in (0, 1)]
        job_cells = tuple(JobCell(key=cell.key(), place=cell.place, token="last") for cell in cells)
        rows = run(replace(job, cohorts=(replace(job.cohorts[0], stream=stream, cells=job_cells),)))
        assert {row["task_accuracy"] for row in rows} == {1.0}
        found[engine] = [(row["setting"], row["layer"], row["n_correct"], row["n_correct_none"]) for row in rows]
    assert found["suffix"] == found["reference"]
    assert sorted({setting for setting, *_ in found["suffix"]}) == ["main", "right", "short"]
    assert all(n_correct != n_correct_none for *_, n_correct, n_correct_none in found["suffix"])


def test_the_whole_vector_needs_no_file(make_job: Callable[..., Job]) -> None:
    """Activation patching has learned nothing, so it is fitted anew, and only the missing rows are written."""
    run(make_job("a", "j1", method="interchange"))
    rows = run(make_job("a", "j2", method="interchange", settings=(RIGHT,)))
    assert [row["setting"] for row in rows] == ["right", "right"]


def test_without_saved_alignments_only_the_missing_rows_are_written(make_job: Callable[..., Job]) -> None:
    """The cells are trained again, and the rows are those of a sweep that had the setting from the start."""
    wanted = [row for row in run(make_job("a", "j1", settings=(RIGHT,))) if row["setting"] == "right"]
    options = RunOptions(device="cpu", save_alignments="none")
    run(make_job("b", "j1", options=options))
    assert run(make_job("b", "j2", options=options, settings=(RIGHT,))) == wanted


def test_nothing_is_done_twice(make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """A second job of the same cells, or a second attempt, finds every row and runs nothing."""
    run(make_job("a", "j1"))
    forbid_training(monkeypatch)
    monkeypatch.setattr(job_module, "load_model", None)
    assert run(make_job("a", "j2")) == []
    assert len(run(make_job("a", "j1"))) == 2


def test_what_the_store_calls_torn_the_worker_does_not_call_done(make_job: Callable[..., Job]) -> None:
    """A shard with one damaged page, in a column that neither looks at: both see no row, and the cells run again."""
    job = make_job("a", "j1", method="interchange")
    run(job)
    (path,) = visible_files(job.sweep_folder.shards, ".parquet")
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        chunk = next(group.column(at) for at in range(group.num_columns) if group.column(at).path_in_schema == "host")
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    assert [shard.path for shard in Shards(job.sweep_folder).torn()] == [path]
    assert Shards(job.sweep_folder).index().num_rows == 0
    assert [len(work.cohort.cells) for work in work_of(make_job("a", "j2", method="interchange"))] == [2]


def test_a_shard_of_a_newer_version_is_bad_input(make_job: Callable[..., Job]) -> None:
    """The job ends at once with the file's name; it is no node's failure, so nobody tries it again."""
    run(make_job("a", "j1", method="interchange"))
    job = make_job("a", "j2", method="interchange")
    (path,) = visible_files(job.sweep_folder.shards, ".parquet")
    pq.write_table(pq.read_table(path).replace_schema_metadata({"schema_version": "99"}), path)
    assert run_job(job, StopRequest()) == EXIT_BAD_INPUT
    progress = read_progress(job.sweep_folder.progress / "j2-0001.json")
    assert progress is not None
    assert progress.failure is not None
    assert progress.failure.kind is FailureClass.BAD_INPUT
    assert f"{path}: format version 99" in progress.failure.message


def test_a_job_gathers_its_rows_at_its_end(make_job: Callable[..., Job]) -> None:
    """Whoever opens the store with other tools finds them, without a command of ours in between."""
    job = make_job("a", "j1", method="interchange", settings=(RIGHT,))
    run(job)
    assert pq.read_table(job.sweep_folder.store / "results.parquet").num_rows == 4


def test_cells_that_are_evaluated_count_as_done(make_job: Callable[..., Job]) -> None:
    """The progress file of a job that only evaluates says how far it is."""
    run(make_job("a", "j1"))
    job = make_job("a", "j2", settings=(RIGHT,))
    run(job)
    progress = read_progress(job.sweep_folder.progress / "j2-0001.json")
    assert progress is not None
    assert (progress.cells_total, progress.cells_done, progress.steps_total) == (2, 2, 0)


def test_the_saved_subspace_is_all_that_is_kept(make_job: Callable[..., Job]) -> None:
    """One file a cell; a DAS of two dimensions keeps two directions of 24."""
    job = make_job("a", "j1", method="das")
    run(job)
    for cell in job.cohorts[0].cells:
        tensors = load_file(alignment_path(job.sweep_folder.alignments, cell.key))
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
            "directions": (24, 2),
            "mask": (1, 2),
        }


def test_a_torn_file_is_trained_anew(make_job: Callable[..., Job]) -> None:
    """The cell whose file cannot be read is trained; the other one is not."""
    run(make_job("a", "j1"))
    job = make_job("a", "j2", settings=(RIGHT,))
    first, second = job.cohorts[0].cells
    alignment_path(job.sweep_folder.alignments, first.key).write_bytes(b"torn")
    assert not is_saved(job.sweep_folder.alignments, first.key)
    assert [(work.is_trained, work.cohort.cells) for work in work_of(job)] == [(False, (first,)), (True, (second,))]


def test_a_flipped_bit_of_an_alignment_is_trained_anew(make_job: Callable[..., Job]) -> None:
    """What it would be evaluated to is no result of that cell: its file does not count as saved."""
    run(make_job("a", "j1"))
    job = make_job("a", "j2", settings=(RIGHT,))
    first, second = job.cohorts[0].cells
    path = alignment_path(job.sweep_folder.alignments, first.key)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert not is_saved(job.sweep_folder.alignments, first.key)
    assert is_saved(job.sweep_folder.alignments, second.key)


def test_cells_in_training_stay_together(make_job: Callable[..., Job]) -> None:
    """A kill between the saving of two alignments: both lack all rows, and their checkpoint is that of both."""
    run(make_job("a", "j1"))
    job = make_job("a", "j1")
    for shard in visible_files(job.sweep_folder.shards, ".parquet"):
        shard.unlink()
    alignment_path(job.sweep_folder.alignments, job.cohorts[0].cells[0].key).unlink()
    assert [(work.is_trained, len(work.cohort.cells)) for work in work_of(job)] == [(False, 2)]


def test_a_variable_without_order_is_skipped_for_good(make_job: Callable[..., Job]) -> None:
    """Skill neurons of the bracket's identity, a pair: rows with the reason, and no gate's figure to lower."""
    job = make_job("a", "j1", method="skill_neurons")
    stream = replace(job.cohorts[0].stream, hypothesis="bracket_identity")
    rows = run(replace(job, cohorts=(replace(job.cohorts[0], stream=stream),)))
    assert {(row["status"], row["n_total"], row["task_accuracy"]) for row in rows} == {("skipped", None, None)}
    assert "variable 'B' of hypothesis 'bracket_identity'" in rows[0]["reason"]
