"""The user's lines before the jobs, run by a real shell as SLURM runs the batch script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.backend import JobState
from cluster.process import EXIT_SETUP
from cluster.slurm.parse import Row
from cluster.slurm.record import BatchFiles, Chunk
from cluster.slurm.setup import BEGIN, pass_on, script
from cluster.slurm.status import status_of
from tests.unit.cluster.slurm.fake_slurm import requests

ENVIRON = {"SLURM_ARRAY_JOB_ID": "100", "SLURM_ARRAY_TASK_ID": "1", "SLURMD_NODENAME": "node1"}
CHUNK = Chunk(token="t1", first=0, n_requests=2, per_task=1, name="sweep-t1-0", time_minutes=3, job="100")


@pytest.fixture
def submission(tmp_path: Path) -> BatchFiles:
    """Two jobs in an array; their logs are below the sweep's `logs`."""
    files = BatchFiles(tmp_path / "sweep" / "cluster" / "slurm" / "t1")
    files.begin(requests(2, tmp_path / "sweep" / "logs"))
    files.put_chunk(CHUNK)
    files.submitit.mkdir(parents=True)
    return files


def run_script(files: BatchFiles, *lines: str, may_fail: bool = False) -> int:
    """The exit code of task 1's batch script, whose jobs would be an `echo`; its output goes where SLURM puts it."""
    body = "\n".join(["#!/bin/bash", *script(lines, files.chunk_path(0), may_fail=may_fail), "exec echo the jobs"])
    environ = {**ENVIRON, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[4])}
    with open(files.submitit / "100_1_0_log.out", "a", encoding="utf-8") as out:
        command = ["bash", "-c", body]
        return subprocess.run(command, env=environ, stdout=out, stderr=out, cwd="/", check=False).returncode


def test_a_line_that_fails_ends_the_job_and_is_the_users_setup(submission: BatchFiles, tmp_path: Path) -> None:
    """Its output is in the job's log; the job is FAILED with the exit code of a setup, and says the last line."""
    assert run_script(submission, "echo one", "echo 'module: no such module: cuda/99' >&2; false", "echo two") == 1
    assert (tmp_path / "sweep" / "logs" / "j1.log").read_text() == "one\nmodule: no such module: cuda/99\n"
    assert not (tmp_path / "sweep" / "logs" / "j0.log").exists()
    run = submission.runs([0, 1])[1]
    row = Row(job="100_1", state=JobState.FAILED, word="FAILED", exit_code="1:0")
    status = status_of(row, run, is_packed=False, without="")
    assert (status.state, status.exit_code, status.node) == (JobState.FAILED, EXIT_SETUP, "node1")
    assert status.detail == "slurm.setup ended with exit code 1: module: no such module: cuda/99"


def test_a_line_may_fail_where_the_user_says_so(submission: BatchFiles) -> None:
    """The jobs begin, and nothing is written down."""
    assert run_script(submission, "false", "echo two", may_fail=True) == 0
    assert (submission.submitit / "100_1_0_log.out").read_text() == "two\nthe jobs\n"
    assert submission.runs([1]) == {}


def test_good_lines_leave_nothing_behind(submission: BatchFiles) -> None:
    """The trap is gone with the shell."""
    assert run_script(submission, "export X=1", "test $X = 1") == 0
    assert submission.runs([1]) == {}


@pytest.mark.parametrize("code", [0, 3])
def test_lines_that_end_the_shell_are_no_success(submission: BatchFiles, code: int) -> None:
    """`exit 0` in a setup line: the jobs never began."""
    assert run_script(submission, f"exit {code}") == code
    assert submission.runs([1])[1].error == f"slurm.setup ended with exit code {code}: it printed nothing"


def test_a_shell_that_was_killed_is_not_the_setups_fault(submission: BatchFiles) -> None:
    """A cancel while the lines run."""
    run_script(submission, "exit 143")
    assert submission.runs([1]) == {}


def test_each_runs_output_is_passed_on_once(submission: BatchFiles, tmp_path: Path) -> None:
    """What submitit prints is left out, and what is above the mark of the last run."""
    out = submission.submitit / "100_1_0_log.out"
    out.write_text("prolog\nsubmitit INFO (now) - Loading pickle\n")
    assert pass_on(submission, CHUNK, ENVIRON) == "prolog\n"
    with out.open("a") as file:
        file.write(f"{BEGIN}\nslurmstepd: error: *** JOB 100 PREEMPTED ***\nprolog again\n")
    pass_on(submission, CHUNK, ENVIRON)
    expected = "prolog\nslurmstepd: error: *** JOB 100 PREEMPTED ***\nprolog again\n"
    assert (tmp_path / "sweep" / "logs" / "j1.log").read_text() == expected


def test_no_lines_no_trap() -> None:
    """The batch script is as it was."""
    assert script((), Path("/x"), may_fail=False) == ()


def test_a_python_with_blanks_in_its_path_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell gets it as one word."""
    monkeypatch.setattr(sys, "executable", "/opt/my python/bin/python")
    assert "'/opt/my python/bin/python' -P" in script(("true",), Path("/x"), may_fail=False)[0]
