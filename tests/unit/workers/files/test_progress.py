"""Progress files: claims, round trips, and fingerprints of faults."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from workers.files.failure import Failure, FailureClass, fingerprint
from workers.files.folder import SweepFolder
from workers.files.progress import (
    PROGRESS_SCHEMA_VERSION,
    AttemptState,
    Progress,
    attempts_in,
    claim_attempt,
    read_progress,
)


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """An empty sweep's folder."""
    made = SweepFolder(tmp_path)
    made.make()
    return made


def progress(**changes: Any) -> Progress:
    plain: dict[str, Any] = {"job": "j", "attempt": 1, "state": AttemptState.RUNNING, "host": "h", "pid": 5}
    plain |= {"backend": "slurm", "scheduler_job_id": "77", "gpu_name": "A100", "gpu_uuid": "u"}
    return Progress(**(plain | {"started": 1.5, "updated": 2.5} | changes))


def test_attempts_are_counted_from_one(folder: SweepFolder) -> None:
    """Each job has its own count, also jobs whose name is the beginning of another's."""
    assert [claim_attempt(folder, "a") for _ in range(3)] == [1, 2, 3]
    assert claim_attempt(folder, "a-0001") == 1
    assert claim_attempt(folder, "a") == 4


def test_no_two_runs_get_the_same_attempt(folder: SweepFolder) -> None:
    """40 claims from 8 threads at once: each number from 1 to 40 once."""
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: claim_attempt(folder, "j"), range(40)))
    assert sorted(claimed) == list(range(1, 41))


def test_a_folder_that_is_gone_is_an_error_not_an_endless_search(tmp_path: Path) -> None:
    """OSError at once."""
    with pytest.raises(FileNotFoundError):
        claim_attempt(SweepFolder(tmp_path / "gone"), "j")


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    """Every kind of field: numbers, tuples, maps, failures, enumerations."""
    diverged = Failure(kind=FailureClass.DIVERGED, message="loss nan", cell_key="k")
    record = progress(
        state=AttemptState.FAILED,
        failure=Failure(kind=FailureClass.NODE, message="é", traceback="t\n", fingerprint="f"),
        cell_failures=(diverged,),
        running_cells=("a", "b"),
        shares={"tails": 0.5},
        best_iia={"left_boundary": 0.875},
        notes=("halved",),
    )
    (tmp_path / "p.json").write_text(record.to_json())
    assert read_progress(tmp_path / "p.json") == record


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [({}, 1.0), ({"saved": 2.1}, 0.4), ({"saved": 9.0}, 0.0), ({"state": AttemptState.FINISHED}, 0.0)],
)
def test_unsaved_work_is_what_came_after_the_last_checkpoint_or_row(changes: dict[str, Any], seconds: float) -> None:
    """From the start where nothing was written; none of an attempt that finished."""
    assert progress(**changes).unsaved_s == pytest.approx(seconds)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"job": "j", "state": "lost"}'])
def test_a_record_that_is_not_there_yet_is_none(tmp_path: Path, text: str | None) -> None:
    """Gone, only claimed, torn, or of another make: no record, no exception."""
    path = tmp_path / "p.json"
    if text is not None:
        path.write_text(text)
    assert read_progress(path) is None


def test_a_record_without_a_version_is_of_the_first_one(tmp_path: Path) -> None:
    """Progress files said no version at first, and had every key that they have now."""
    raw = json.loads(progress().to_json())
    del raw["schema"]
    (tmp_path / "p.json").write_text(json.dumps(raw))
    assert read_progress(tmp_path / "p.json") == progress()


def test_a_record_of_a_newer_version_is_none(tmp_path: Path) -> None:
    """Nobody here can say what it means."""
    (tmp_path / "p.json").write_text(progress(schema=PROGRESS_SCHEMA_VERSION + 1).to_json())
    assert read_progress(tmp_path / "p.json") is None


def test_attempts_are_found_among_strays(folder: SweepFolder) -> None:
    """Notes, a conflicted copy, what NFS leaves behind, a folder: no attempts."""
    claim_attempt(folder, "r1-0001")
    claim_attempt(folder, "r1-0001")
    for name in ("notes.json", "r1-0001-0001 (conflicted copy).json", ".nfs000001.json", "r1-0001-x.json"):
        (folder.progress / name).write_text("{}")
    (folder.progress / "r2-0001-0001.json").mkdir()
    assert [(job, number) for _, job, number in attempts_in(folder)] == [("r1-0001", 1), ("r1-0001", 2)]


# Fingerprints ------------------------------------------------------------------------------------------------------


def failing_read(value: object) -> None:
    raise ValueError(f"cannot read /scratch/job{value}/model.bin: {value} bytes at 0x{id(value):x}")


def failing_write(value: object) -> None:
    raise ValueError(f"cannot read /scratch/job{value}/model.bin: {value} bytes at 0x{id(value):x}")


def fingerprint_of(function: Callable[[Any], None], value: object, kind: FailureClass = FailureClass.BUG) -> str:
    try:
        function(value)
    except ValueError as error:
        return fingerprint(kind, str(error), "".join(traceback.format_exception(error)))
    raise AssertionError


def test_equal_faults_have_equal_fingerprints() -> None:
    """Paths, numbers and addresses do not tell them apart."""
    assert fingerprint_of(failing_read, 1) == fingerprint_of(failing_read, 22)
    assert len(fingerprint_of(failing_read, 1)) == 12


def test_the_folder_that_the_code_lies_in_is_no_part_of_a_fingerprint() -> None:
    """The same frames on another node's disk, after an edit that moved the line."""
    here, there = (
        '  File "/home/a/workers/job/run.py", line 3, in run\n',
        '  File "/b/workers/job/run.py", line 9, in run\n',
    )
    assert fingerprint(FailureClass.BUG, "m", here) == fingerprint(FailureClass.BUG, "m", there)


def test_different_faults_have_different_fingerprints() -> None:
    """Another function, another message, another class."""
    found = {
        fingerprint_of(failing_read, 1),
        fingerprint_of(failing_write, 1),
        fingerprint_of(failing_read, 1, FailureClass.NODE),
        fingerprint(FailureClass.BUG, "cannot read", ""),
        fingerprint(FailureClass.BUG, "cannot write", ""),
    }
    assert len(found) == 5
