"""The gate: whether a model does its task well enough, after as few prompts as that takes. No torch here.

The question is what the whole sample of N prompts would say: at least `threshold` of them right, or fewer. The prompts
are looked at in a random order. After n of them, s of which are right, each K (right ones among all N) has the
posterior, with a uniform prior over K = 0 .. N,

    post(K | s, n) = C(K, s) C(N - K, n - s) / sum over all K of the same.

The ratio prior / post(K) is a martingale where K is the truth. By Ville's inequality the set of all K whose ratio stays
below 1 / alpha therefore holds the truth at every n at once, with probability 1 - alpha. The gate fails as soon as no K
in it reaches the threshold. A set that is certain to fail is a special case, and after all N prompts nothing is left to
chance.

Source: Waudby-Smith and Ramdas, "Confidence sequences for sampling without replacement", NeurIPS 2020, theorem 2.1.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ERROR: Final = 1e-4  # the probability that a model fails early which would have passed on all prompts
_REASON: Final = re.compile(r"task accuracy \S+( of \d+ of \d+ prompts)? is below the gate's (\d\.\d+)")


def count_interval(n_correct: int, n_seen: int, n_all: int, *, error: float) -> tuple[int, int]:
    """The least and the most of `n_all` prompts that may be right, after `n_correct` of `n_seen` were, in random order.

    Raises: ValueError for counts that are none.
    """
    if not 0 <= n_correct <= n_seen <= n_all:
        raise ValueError(f"got {n_correct} of {n_seen} of {n_all}; expected 0 <= right <= seen <= all")
    log_factorial = _log_factorials(n_all)
    k = np.arange(n_correct, n_all - (n_seen - n_correct) + 1)  # what is still possible
    first = log_factorial[k] - log_factorial[k - n_correct]
    second = log_factorial[n_all - k] - log_factorial[n_all - k - (n_seen - n_correct)]
    log_post = first + second
    log_post -= np.logaddexp.reduce(log_post)
    inside = k[-math.log(n_all + 1) - log_post < -math.log(error)]
    return int(inside.min()), int(inside.max())


def fails(n_correct: int, n_seen: int, n_all: int, *, threshold: float) -> bool:
    """Whether a model is below the threshold, after some of the prompts in random order, or after all of them."""
    if n_seen == n_all:
        return n_all > 0 and n_correct / n_all < threshold
    return count_interval(n_correct, n_seen, n_all, error=ERROR)[1] / n_all < threshold


@cache
def _log_factorials(n: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def reason(n_correct: int, n_seen: int, n_all: int, *, threshold: float) -> str:
    """Why a cell is skipped."""
    some = f" of {n_seen} of {n_all} prompts" if n_seen < n_all else ""
    return f"task accuracy {n_correct / n_seen:.4f}{some} is below the gate's {threshold:.4f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a skipped cell's `reason` says: against which threshold, and after how many of how many prompts."""

    threshold: float
    n_seen: int | None = None  # None: all of them
    n_all: int | None = None

    @classmethod
    def of(cls, text: str) -> Verdict | None:
        """The verdict in a reason; None where it is another one."""
        found = _REASON.match(text)
        if found is None:
            return None
        seen: list[Any] = re.findall(r"\d+", found[1] or "")
        return cls(
            threshold=float(found[2]), n_seen=int(seen[0]) if seen else None, n_all=int(seen[1]) if seen else None
        )

    def holds_for(self, threshold: float) -> bool:
        """Whether the same prompts decide against another threshold too: a lower one may need more of them."""
        return self.n_seen is None or threshold >= self.threshold - 5e-5  # the text has four decimals
