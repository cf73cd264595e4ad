"""Who may choose the jobs of a sweep: one command at a time, however processes and threads interleave."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.process import ProcessId
from orchestrator.backends import submissions
from orchestrator.backends.submissions import (
    Stage,
    Submission,
    claim_submission,
    read_submissions,
    save,
    withdraw,
)
from orchestrator.errors import SweepBusy
from workers.files.folder import SweepFolder


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep's folder, empty."""
    made = SweepFolder(tmp_path / "sweep")
    made.make()
    return made


def claim(folder: SweepFolder) -> Submission:
    """A claim by this process."""
    return claim_submission(folder, backend="local", options={}, reason="submit")


def belongs_to(folder: SweepFolder, claimed: Submission, process: ProcessId) -> Submission:
    """The claim, as if `process` had made it."""
    submissions._choosing.discard(claimed.token)
    changes = {"host": process.host, "boot": process.boot, "pid": process.pid, "started": process.started}
    return save(folder, claimed, **changes)


def test_two_threads_of_one_process_do_not_both_choose(folder: SweepFolder) -> None:
    """The second thread is told that somebody is at it, and leaves nothing behind."""
    claim(folder)
    found: list[BaseException] = []

    def second() -> None:
        try:
            claim(folder)
        except SweepBusy as error:
            found.append(error)

    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
    assert len(found) == 1
    assert [one.number for one in read_submissions(folder)] == [1]


def test_a_claim_of_a_dead_process_does_not_block(folder: SweepFolder) -> None:
    """Its number is in use again by another process, which started at another time."""
    claimed = claim(folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        process = ProcessId.of(other.pid)
        belongs_to(folder, claimed, replace(process, started=process.started - 1))
        assert claim(folder).number == 2
        other.communicate()


def test_a_claim_of_this_process_number_before_a_restart_does_not_block(folder: SweepFolder) -> None:
    """A container's first process has the same number each time: another boot, or a claim that this one never made."""
    me = ProcessId.of(os.getpid())
    first = belongs_to(folder, claim(folder), replace(me, boot="another"))
    second = claim(folder)
    withdraw(folder, first)
    belongs_to(folder, second, me)
    assert claim(folder).number == 3


def test_a_living_process_blocks(folder: SweepFolder) -> None:
    """Until it has ended."""
    claimed = claim(folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        belongs_to(folder, claimed, ProcessId.of(other.pid))
        with pytest.raises(SweepBusy, match=f"process {other.pid}"):
            claim(folder)
        other.communicate()
    assert claim(folder).stage is Stage.PLANNING


def test_a_number_is_never_used_again(folder: SweepFolder) -> None:
    """Neither that of a claim that was withdrawn."""
    withdraw(folder, claim(folder))
    assert claim(folder).number == 2


def test_a_number_that_was_chosen_before_a_withdrawal_is_given_up(
    folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holds 1. B has computed 2 and not yet taken it. A withdraws, C takes 2 and withdraws it: B may not use it."""
    first = claim(folder)
    create = submissions._create

    def late(where: SweepFolder, chosen: Submission) -> bool:
        monkeypatch.setattr(submissions, "_create", create)
        withdraw(folder, first)
        withdraw(folder, claim(folder))
        return create(where, chosen)

    monkeypatch.setattr(submissions, "_create", late)
    assert claim(folder).number == 3


def test_of_two_that_computed_the_same_number_one_chooses(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holds 1. B has computed 2. A withdraws, and C takes 2: B is told that C is at it."""
    first = claim(folder)
    create = submissions._create

    def late(where: SweepFolder, chosen: Submission) -> bool:
        monkeypatch.setattr(submissions, "_create", create)
        withdraw(folder, first)
        claim(folder)
        return create(where, chosen)

    monkeypatch.setattr(submissions, "_create", late)
    with pytest.raises(SweepBusy):
        claim(folder)
    assert [one.number for one in read_submissions(folder)] == [2]


def test_a_record_of_the_version_before_is_read(folder: SweepFolder) -> None:
    """It has no boot and no start time: while it is young its process counts as alive."""
    claimed = claim(folder)
    submissions._choosing.discard(claimed.token)
    save(folder, claimed, schema=1, boot="", started=0)
    with pytest.raises(SweepBusy):
        claim(folder)
    save(folder, claimed, schema=1, boot="", started=0, created=claimed.created - 1000)
    assert claim(folder).number == 3
