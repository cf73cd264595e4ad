"""How fast a job is, and what its time goes into: the numbers behind a heartbeat. None of it changes a result."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

import torch

_SYNCHRONISE_EVERY: Final = 20  # on a GPU the time is taken exactly in every 20th step
_RATE_WINDOW_S: Final = 20.0
_CHECKPOINT_SHARE: Final = 0.05  # at most this share of the time goes into writing checkpoints


class Stopwatch:
    """Seconds by what they were spent on. On a GPU a sample of them: to wait for it in each step would slow it down."""

    def __init__(self, device: torch.device) -> None:
        self._is_gpu = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self.n_steps = 0

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time spent inside counts as `name`."""
        is_sampled = not self._is_gpu or self.n_steps % _SYNCHRONISE_EVERY == 0
        self._synchronise(is_sampled)
        started = time.perf_counter()
        try:
            yield
        finally:
            self._synchronise(is_sampled)
            if is_sampled:
                self._seconds[name] += time.perf_counter() - started

    def _synchronise(self, is_sampled: bool) -> None:
        if self._is_gpu and is_sampled:
            torch.cuda.synchronize()

    def seconds(self, name: str) -> float:
        """What was spent on it, as far as time was taken."""
        return self._seconds[name]

    def shares(self) -> dict[str, float]:
        """The share of each in all the time that was taken."""
        total = sum(self._seconds.values()) or 1.0
        return {name: round(spent / total, 4) for name, spent in self._seconds.items()}


class _Mark(NamedTuple):
    """How far the job was at a moment."""

    at: float
    n_steps: int
    n_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """The pace at a moment. `steps_per_s` is in cell-steps, `pairs_per_s` in training pairs x cells."""

    steps_per_s: float
    pairs_per_s: float
    eta_s: float


class EvaluationAhead:
    """How long the evaluations take that are still to come. They are counted in cell-steps: a step trains on a batch,
    forward and backward, and an evaluation passes the test pairs forward, three times (the alignment, the whole vector,
    a random rotation), which is about one step for each batch of them. Measured ones correct this."""

    def __init__(self) -> None:
        self._n_left, self._n_done, self._spent_s = 0.0, 0.0, 0.0

    def expect(self, n_steps: float) -> None:
        """So many cell-steps are to come."""
        self._n_left += n_steps

    def done(self, n_steps: float, spent_s: float) -> None:
        """So many of them are over; all until now have taken `spent_s`."""
        self._n_left = max(self._n_left - n_steps, 0.0)
        self._n_done += n_steps
        self._spent_s = spent_s

    def seconds(self, steps_per_s: float) -> float:
        """What is to come, at the measured pace, or at that of the training before anything is measured."""
        if self._n_done and self._spent_s:
            return self._n_left * self._spent_s / self._n_done
        return self._n_left / steps_per_s if steps_per_s > 0 else 0.0


class Pace:
    """Counts steps and pairs; says how many there were lately, and since training began."""

    def __init__(self) -> None:
        self.n_pairs = 0
        self._marks: list[_Mark] = []
        self._n_steps = 0  # cell-steps after the first, which warms up
        self._since = 0.0

    def advance(self, *, cell_steps: int, pairs: int) -> None:
        """Count a step."""
        self.n_pairs += pairs
        if self._since:
            self._n_steps += cell_steps
        else:
            self._since = time.time()

    def forget_recent(self) -> None:
        """The count of steps is about to jump: what was seen lately says nothing about what comes."""
        self._marks.clear()

    def overall(self) -> float:
        """Cell-steps a second of training since the first step; 0.0 before the second."""
        return self._n_steps / (time.time() - self._since) if self._n_steps else 0.0

    def rates(self, now: float, *, done: int, total: int, after: EvaluationAhead | None = None) -> Rates:
        """The pace of the last seconds, `done` of `total` cell-steps behind us; `after` is what comes beside them."""
        self._marks.append(_Mark(now, done, self.n_pairs))
        while len(self._marks) > 2 and now - self._marks[0].at > _RATE_WINDOW_S:
            self._marks.pop(0)
        first = self._marks[0]
        seconds = max(now - first.at, 1e-9)
        rate = (done - first.n_steps) / seconds
        usual = rate or self.overall()  # between two cohorts, while the first is evaluated
        return Rates(
            steps_per_s=rate,
            pairs_per_s=(self.n_pairs - first.n_pairs) / seconds,
            eta_s=(total - done) / usual + (after.seconds(usual) if after else 0.0) if usual > 0 else 0.0,
        )


class CheckpointClock:
    """When the next checkpoint is due."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._written_at, self._took_s = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether the interval has gone by since the last one, or more where writing one takes long."""
        pause_s = max(self._every_s, self._took_s / _CHECKPOINT_SHARE)
        return time.monotonic() - self._written_at >= pause_s

    def written(self, seconds: float) -> None:
        """One was written, which took `seconds`."""
        self._written_at, self._took_s = time.monotonic(), seconds
