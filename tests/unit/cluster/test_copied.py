"""A copied folder's backends: nothing of the original is started, released, limited or counted from there."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from cluster.backend import Control, JobRequest
from cluster.local.queue import LocalFiles, Settings
from cluster.ray.record import RayFiles, RayJobOptions
from cluster.slurm import SlurmCluster
from cluster.slurm import backend as slurm_backend
from cluster.slurm.record import Chunk, SlurmFiles
from cluster.slurm.task import ArrayTask


def request(folder: Path) -> JobRequest:
    """A job of the sweep in `folder`."""
    return JobRequest(name="a", label="a", argv=("true",), log=folder / "logs" / "a.log", time_s=1.0, n_gpus=0)


def copied(folder: Path) -> Path:
    """Its copy."""
    return Path(shutil.copytree(folder, folder.with_name("copy")))


def chunk_of(folder: Path) -> Chunk:
    """An array of one job that SLURM has, written down."""
    chunk = Chunk(token="t", first=0, n_requests=1, per_task=1, name="t-0", time_minutes=1, job="100", released=True)
    submission = SlurmFiles(folder).submission("t")
    assert submission.begin([request(folder)])
    submission.put_chunk(chunk)
    return chunk


def test_a_local_copy_starts_nothing_of_the_original(tmp_path: Path) -> None:
    """What waits there is the original's to start, and its dispatcher is none of the copy's."""
    folder = tmp_path / "sweep"
    files = LocalFiles(folder)
    files.add("t", [request(folder)], Settings(workers=1))
    assert list(files.startable()) == ["t.0"]
    copy = LocalFiles(copied(folder))
    assert list(copy.startable()) == []
    assert "submitted from another folder" in copy.status("t.0").detail


def test_a_slurm_copy_releases_and_limits_nothing_of_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arrays are shown, and neither woken nor given a share of the copy's limit."""
    folder, told = tmp_path / "sweep", []
    chunk_of(folder)
    copy = copied(folder)
    monkeypatch.setattr(slurm_backend, "share_out", lambda *arguments: told.append(arguments))
    monkeypatch.setattr(SlurmCluster, "control", lambda _cluster, *arguments: told.append(arguments))
    SlurmCluster(copy, {}).wake()
    SlurmCluster(copy, {}).limit(1)
    assert told == []
    assert SlurmCluster(copy, {}).handles() == ["100_0"]
    SlurmCluster(folder, {}).wake()
    assert told == [(["100_0"], Control.RELEASE)]


def test_a_ray_copy_knows_whose_submission_it_is(tmp_path: Path) -> None:
    """The dispatchers of the original count against no limit of the copy."""
    folder = tmp_path / "sweep"
    submission = RayFiles(folder).add("t", [request(folder)], RayJobOptions())
    copy = RayFiles(copied(folder))
    assert RayFiles(folder).is_own(submission)
    (known,) = copy.submissions()
    assert not copy.is_own(known)


def test_a_task_that_cannot_write_down_its_command_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a SLURM node with a full disk the command runs to its end, and the task ends with its exit code."""
    folder = tmp_path / "sweep"
    chunk = chunk_of(folder)
    submission = SlurmFiles(folder).submission("t")
    monkeypatch.setattr(
        type(submission),
        "requests",
        lambda _files: [
            JobRequest(
                name="a",
                label="a",
                argv=(sys.executable, "-c", "raise SystemExit(70)"),
                log=folder / "logs" / "a.log",
                time_s=1.0,
                n_gpus=0,
            )
        ],
    )

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(submission), "put_run", full)
    monkeypatch.setattr(ArrayTask, "_learn_deadline", lambda _task: None)
    environ = {**os.environ, "SLURM_ARRAY_JOB_ID": "100", "SLURM_ARRAY_TASK_ID": "0"}
    task = ArrayTask(submission, chunk, environ)
    task._start(0, submission.requests()[0])
    ended = task._next_end()
    assert (ended.record.exit_code, task.code, task.running) == (70, 70, {})
