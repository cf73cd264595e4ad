"""The model's own accuracy at a task, measured on as few prompts as the gate needs.

A model that may pass is asked every prompt, in their order: its accuracy scales the cells' IIA. Before that, a first
look at prompts in random order finds a model that is far below the gate (`workers.files.gate` says when that is sure).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from workers.data.pairs import PromptSet, stream_rng
from workers.files.gate import count_interval, fails
from workers.job.rows import GateResult

_LOOK: Final = 64  # prompts at a time
_DOUBT: Final = 0.05  # the chance of a wrong guess that a model will pass, which costs prompts and nothing else

AnswersRight = Callable[[PromptSet], NDArray[np.bool_]]


def gate_result(prompts: PromptSet, answers_right: AnswersRight, *, threshold: float) -> GateResult:
    """The right answers among all `prompts`, or among the first few of a random order where these are enough to know
    that the model is below `threshold`."""
    n_all = len(prompts.label_B)
    if threshold > 0:
        n_correct, n_seen = _first_look(prompts, answers_right, threshold=threshold)
        if 0 < n_seen < n_all and fails(n_correct, n_seen, n_all, threshold=threshold):
            return GateResult(n_correct=n_correct, n_total=n_seen, n_all=n_all)
    return GateResult(n_correct=int(answers_right(prompts).sum()), n_total=n_all, n_all=n_all)


def _first_look(prompts: PromptSet, answers_right: AnswersRight, *, threshold: float) -> tuple[int, int]:
    """Right answers and prompts asked, once the model is surely below the threshold or probably not; half of the
    prompts at most."""
    n_all = len(prompts.label_B)
    order = list(range(n_all))
    stream_rng(gate=n_all).shuffle(order)
    n_correct = n_seen = 0
    while n_seen + _LOOK <= n_all // 2:
        rows = np.array(order[n_seen : n_seen + _LOOK], dtype=np.int64)
        n_correct, n_seen = n_correct + int(answers_right(prompts.take(rows)).sum()), n_seen + _LOOK
        is_below = fails(n_correct, n_seen, n_all, threshold=threshold)
        if is_below or count_interval(n_correct, n_seen, n_all, error=_DOUBT)[0] >= threshold * n_all:
            break
    return n_correct, n_seen
