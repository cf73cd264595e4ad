"""A job that its cluster does not show: when it is given up, and when nobody has answered."""

from __future__ import annotations

import time

import pytest

from cluster.backend import HandleStatus, JobState
from orchestrator.status.job_state import judged
from orchestrator.status.reader import _remaining_s
from orchestrator.status.states import JobStatus

JOB = JobStatus(name="r1-0001", label="", submission=1, backend="slurm", handle="100_0", state=JobState.UNKNOWN)


def after(age_s: float, seen: HandleStatus) -> JobStatus:
    """The job, submitted `age_s` ago, as its cluster's word makes it; it is lost after 300 s."""
    return judged(JOB, seen, submitted=time.time() - age_s, fresh_s=30.0, lost_after_s=300.0)


def test_a_job_that_is_missed_says_when_it_is_given_up() -> None:
    """The seconds that are left, and what to do then."""
    job = after(100.4, HandleStatus(state=JobState.UNKNOWN, detail="not in SLURM's lists"))
    assert not job.is_lost
    assert "not in SLURM's lists; given up in 200 s, then `resume` runs its cells again" in job.detail
    assert "given up" in after(301.0, HandleStatus(state=JobState.UNKNOWN)).detail
    assert after(301.0, HandleStatus(state=JobState.UNKNOWN)).is_lost


def test_a_job_is_not_given_up_while_nobody_answers() -> None:
    """Its scheduler did not say that it is gone: it is not sent a second time."""
    job = after(1e6, HandleStatus(state=JobState.UNKNOWN, detail="no controller", is_unanswered=True))
    assert not job.is_lost
    assert job.holds_cells
    assert "given up" not in job.detail


def test_a_sweep_ends_no_sooner_than_its_last_job_may_start() -> None:
    """A waiting job with a start in an hour, beside one without."""
    waits = after(0.0, HandleStatus(state=JobState.PENDING, start=time.time() + 3600))
    assert waits.wait_s == pytest.approx(3600, abs=5)
    assert _remaining_s([waits, JOB]) == pytest.approx(3600, abs=5)
