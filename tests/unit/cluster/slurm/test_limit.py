"""How a limit of running jobs is shared among arrays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.slurm import limit
from cluster.slurm.limit import shares


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(1, 1001), st.integers(0, 5)), max_size=8))
def test_shares_never_exceed_the_limit_and_leave_nothing_idle(n_jobs: int, sizes: list[tuple[int, int]]) -> None:
    """Their sum is the limit, what runs already, or all that is left to do; none gets more than it has."""
    remaining = {str(index): size for index, (size, _) in enumerate(sizes)}
    running = {str(index): min(size, n_running) for index, (size, n_running) in enumerate(sizes)}
    got = shares(n_jobs, remaining, running)
    assert sum(got.values()) == max(sum(running.values()), min(n_jobs, sum(remaining.values())))
    assert all(running[array] <= got[array] <= remaining[array] for array in remaining)


def test_the_first_array_is_served_first() -> None:
    """16 at once: the first array has three jobs left, the second gets the other 13, the third waits."""
    assert shares(16, {"1": 3, "2": 900, "3": 900}, {"1": 2, "2": 0, "3": 0}) == {"1": 3, "2": 13, "3": 0}


def test_what_runs_already_counts_against_the_limit() -> None:
    """A lowered limit stops nothing that runs; nothing more is started."""
    assert shares(2, {"1": 3, "2": 3}, {"1": 2, "2": 3}) == {"1": 2, "2": 3}


def test_arrays_without_a_share_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one job at once three arrays run one after another: each later one waits for the one before it."""
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(limit, "ask", lambda *command: told.append(command[2:]))
    limit.share_out(1, {"1": (2, 1), "2": (3, 0), "3": (3, 0)})
    assert ("jobid=2", "dependency=afterany:1") in told
    assert ("jobid=3", "dependency=afterany:2") in told
    assert ("jobid=1", "dependency=") in told
