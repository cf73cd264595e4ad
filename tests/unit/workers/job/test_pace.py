"""The pace of a job: what happened lately, what happened overall, and when a checkpoint is due."""

import pytest
import torch

from workers.job import pace
from workers.job.pace import CheckpointClock, EvaluationAhead, Pace, Stopwatch


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """In place of every clock that the module reads."""
    clock = Clock()
    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(pace.time, name, clock)
    return clock


def test_rates_are_those_of_the_last_seconds(clock: Clock) -> None:
    """100 steps in the first 10 s, 10 in the next 30: the early rush is forgotten after the window."""
    counted = Pace()
    counted.rates(1000.0, done=0, total=1000)
    counted.advance(cell_steps=100, pairs=400)
    assert counted.rates(1010.0, done=100, total=1000).steps_per_s == pytest.approx(10.0)
    counted.advance(cell_steps=10, pairs=40)
    rates = counted.rates(1040.0, done=110, total=1000)
    assert (rates.steps_per_s, rates.pairs_per_s) == (pytest.approx(1 / 3), pytest.approx(4 / 3))
    assert rates.eta_s == pytest.approx(890 * 3)


def test_the_first_step_warms_up(clock: Clock) -> None:
    """The overall pace counts from the end of the first step, which is slower than any other."""
    counted = Pace()
    assert counted.overall() == 0.0
    counted.advance(cell_steps=7, pairs=7)
    assert counted.overall() == 0.0
    clock.now += 2
    counted.advance(cell_steps=7, pairs=7)
    assert counted.overall() == pytest.approx(3.5)


def test_between_cohorts_the_overall_pace_tells_the_time_left(clock: Clock) -> None:
    """While one cohort is evaluated no step is made; the time left is that of the usual pace, not endless."""
    counted = Pace()
    for _ in range(2):
        counted.advance(cell_steps=10, pairs=10)
        clock.now += 1
    counted.forget_recent()
    counted.rates(clock.now, done=20, total=40)
    rates = counted.rates(clock.now + 1, done=20, total=40)
    assert (rates.steps_per_s, rates.eta_s) == (0.0, pytest.approx(4.0))


def test_time_is_shared_out_by_name(clock: Clock) -> None:
    """3 s and 1 s are three quarters and one; time outside counts for nothing."""
    watch = Stopwatch(torch.device("cpu"))
    for name, seconds in (("tails", 2), ("rotation", 1), ("tails", 1)):
        with watch.timed(name):
            clock.now += seconds
        clock.now += 50
    assert watch.shares() == {"tails": 0.75, "rotation": 0.25}


def test_a_checkpoint_that_takes_long_is_written_less_often(clock: Clock) -> None:
    """Due after the interval; one that took 10 s is followed by the next after 200 s, a twentieth of the time."""
    checkpoints = CheckpointClock(60.0)
    clock.now += 59
    assert not checkpoints.is_due()
    clock.now += 1
    assert checkpoints.is_due()
    checkpoints.written(10.0)
    clock.now += 199
    assert not checkpoints.is_due()
    clock.now += 1
    assert checkpoints.is_due()


def test_evaluations_are_part_of_the_estimate() -> None:
    """At ten steps a second 40 of the evaluation take 4 s; after half of them took 8 s, 8 s are left."""
    ahead = EvaluationAhead()
    ahead.expect(40)
    assert ahead.seconds(10.0) == pytest.approx(4.0)
    ahead.done(20, 8.0)
    assert ahead.seconds(10.0) == pytest.approx(8.0)
    ahead.done(20, 16.0)
    assert ahead.seconds(10.0) == 0.0


def test_nothing_is_said_to_be_left_only_when_nothing_is(clock: Clock) -> None:
    """With all steps done and the evaluation to come, the estimate is that of the evaluation and not 0."""
    counted, ahead = Pace(), EvaluationAhead()
    ahead.expect(50)
    for _ in range(11):
        counted.advance(cell_steps=10, pairs=1)
        clock.now += 1
    rates = counted.rates(clock.now, done=110, total=110, after=ahead)
    assert rates.eta_s > 3.0
