"""Random faults on real sweeps of this machine: none loses, doubles or changes a row."""

from __future__ import annotations

import pytest

from tests.campaign.__main__ import campaign


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_random_faults_cost_nothing_but_time() -> None:
    """Twenty faults in four episodes, the same ones each time."""
    episodes = campaign("local", 20, 1, keep=False, log=None)
    assert sum(len(one.faults) for one in episodes) >= 20
    for one in episodes:
        assert one.verdict.is_clean, (one.seed, one.faults, one.verdict, *one.said)
