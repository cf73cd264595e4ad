"""A job in trouble, in this process so that the trouble can be made: memory, NaN, a weak model, a full disk."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.local.jobs import Row, make_cohort, progress_of, rows_of, write_job
from workers.engine.base import TokenBatch
from workers.engine.suffix import SuffixEngine
from workers.files.failure import EXIT_BAD_INPUT, EXIT_FINISHED, EXIT_NODE, EXIT_OUT_OF_MEMORY, FailureClass
from workers.files.job import Job
from workers.files.progress import AttemptState, Progress
from workers.job import rows as rows_module
from workers.job.run import run_job
from workers.job.stop import StopRequest
from workers.methods import training

pytestmark = pytest.mark.slow

KEYS = ("status", "n_correct", "n_total", "n_correct_none", "n_correct_full", "n_correct_random")


def attempt(job_file: Path) -> int:
    """The exit code of an attempt at the job in this process."""
    return run_job(Job.load(job_file), StopRequest())


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> dict[tuple[str, str], Row]:
    """The rows of the job without any trouble."""
    job_file = write_job(tmp_path_factory.mktemp("plain"), demo_model, [make_cohort(demo_model)])
    assert attempt(job_file) == EXIT_FINISHED
    return rows_of(job_file)


def last_progress(job_file: Path) -> Progress:
    progress = progress_of(job_file)
    assert progress is not None
    return progress


def failing_forward(monkeypatch: pytest.MonkeyPatch, *, fails: Any, error: Exception) -> None:
    """Shared forwards raise `error` while `fails(number of the call, number of pairs)`."""
    plain, calls = SuffixEngine.forward, []

    def forward(self: SuffixEngine, base: TokenBatch, source: TokenBatch) -> Any:
        calls.append(len(base))
        if fails(len(calls), len(base)):
            raise error
        return plain(self, base, source)

    monkeypatch.setattr(SuffixEngine, "forward", forward)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
    ids=["cuda", "cpu"],
)
def test_memory_that_runs_out_once_halves_the_micro_batch(
    tmp_path: Path,
    demo_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[tuple[str, str], Row],
    error: Exception,
) -> None:
    """In the 12th step: the job says so, resumes from its checkpoint with 32 pairs a pass, and finishes."""
    failing_forward(monkeypatch, fails=lambda number, _: number == 12, error=error)
    job_file = write_job(tmp_path, demo_model, [make_cohort(demo_model)])
    assert attempt(job_file) == EXIT_FINISHED
    progress = last_progress(job_file)
    assert progress.notes == ("out of memory: micro-batch halved to 32 pairs (same effective batch)",)
    assert progress.steps_done == progress.steps_total == 60
    found = rows_of(job_file)
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert row["loss"] == pytest.approx(expected[key]["loss"], rel=1e-3)


def test_memory_that_never_suffices_ends_the_job_as_such(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64, 32, 16, 8, 4 pairs, then fewer cells, down to one: exit code 71, and every step is told."""
    failing_forward(monkeypatch, fails=lambda *_: True, error=torch.OutOfMemoryError("no"))
    monkeypatch.setattr("workers.job.engines.exact_form", lambda model: (model, ""))
    job_file = write_job(tmp_path, demo_model, [make_cohort(demo_model)])
    assert attempt(job_file) == EXIT_OUT_OF_MEMORY
    progress = last_progress(job_file)
    assert [note.split(": ")[1] for note in progress.notes] == [
        *(f"micro-batch halved to {n_pairs} pairs (same effective batch)" for n_pairs in (32, 16, 8, 4)),
        "cohort of 3 cells halved",
    ]
    assert progress.failure is not None
    assert progress.failure.kind is FailureClass.OUT_OF_MEMORY
    assert rows_of(job_file) == {}


def test_a_cell_that_turns_to_nan_fails_alone(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[tuple[str, str], Row]
) -> None:
    """Its row says that it diverged and has no counts; the other rows are those of the undisturbed run."""
    cohort = make_cohort(demo_model)
    sick = cohort.cells[1].key
    plain = training.random_rotation

    def poisoned(seed_text: str, size: int, device: torch.device) -> torch.Tensor:
        return plain(seed_text, size, device) * (float("nan") if seed_text == sick else 1.0)

    monkeypatch.setattr(training, "random_rotation", poisoned)
    job_file = write_job(tmp_path, demo_model, [cohort])
    assert attempt(job_file) == EXIT_FINISHED
    found = rows_of(job_file)
    row = found.pop((sick, "main"))
    assert row["status"] == "failed"
    assert "diverged: loss nan" in row["reason"]
    assert [row[key] for key in KEYS[1:]] == [None] * 5
    assert found == {key: value for key, value in expected.items() if key[0] != sick}
    progress = last_progress(job_file)
    assert (progress.cells_done, progress.cells_failed) == (2, 1)
    assert [(failure.kind, failure.cell_key) for failure in progress.cell_failures] == [(FailureClass.DIVERGED, sick)]


def test_a_model_below_the_gate_is_not_run(tmp_path: Path, demo_model: Path) -> None:
    """Every cell is skipped with the reason and the accuracy; no count is 0, there is none."""
    job_file = write_job(tmp_path, demo_model, [make_cohort(demo_model)], gate=1.01)
    assert attempt(job_file) == EXIT_FINISHED
    found = rows_of(job_file)
    assert len(found) == 3
    for row in found.values():
        assert row["status"] == "skipped"
        assert row["reason"] == f"task accuracy {row['task_accuracy']:.4f} is below the gate's 1.0100"
        assert [row[key] for key in KEYS[1:]] + [row["iia"]] == [None] * 6
        assert 0.8 < row["task_accuracy"] <= 1
    progress = last_progress(job_file)
    assert (progress.state, progress.cells_skipped, progress.steps_done) == (AttemptState.FINISHED, 3, 0)


def test_a_torn_weight_file_is_bad_input(tmp_path: Path, demo_model: Path) -> None:
    """Half of a safetensors file: exit code 65, no traceback to read, the file and both sizes named."""
    model = shutil.copytree(demo_model, tmp_path / "model")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    job_file = write_job(tmp_path / "sweep", model, [make_cohort(demo_model)])
    assert attempt(job_file) == EXIT_BAD_INPUT
    failure = last_progress(job_file).failure
    assert failure is not None
    assert failure.kind is FailureClass.BAD_INPUT
    assert f"{weights}: cut or damaged: 100,000 bytes, its header says 892,064" in failure.message


def test_a_disk_that_is_full_when_the_rows_are_written_is_the_nodes_fault(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[tuple[str, str], Row]
) -> None:
    """Exit code 74, no shard, the checkpoint kept; with room again the next attempt brings the rows."""

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    job_file = write_job(tmp_path, demo_model, [make_cohort(demo_model)])
    with monkeypatch.context() as broken:
        broken.setattr(rows_module, "replace_file", full)
        assert attempt(job_file) == EXIT_NODE
    failure = last_progress(job_file).failure
    assert failure is not None
    assert "No space left on device" in failure.message
    assert list((tmp_path / "shards").iterdir()) == []
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    assert attempt(job_file) == EXIT_FINISHED
    assert rows_of(job_file) == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_node_without_the_wanted_gpu_is_the_nodes_fault(tmp_path: Path, demo_model: Path) -> None:
    """A job for `cuda` on a node that has none: exit code 74, to be tried on another one."""
    job_file = write_job(tmp_path, demo_model, [make_cohort(demo_model)], device="cuda")
    assert attempt(job_file) == EXIT_NODE
    failure = last_progress(job_file).failure
    assert failure is not None
    assert failure.kind is FailureClass.NODE
