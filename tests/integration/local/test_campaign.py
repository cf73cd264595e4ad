"""Random faults on real sweeps of this machine: none loses, doubles or changes a row."""

from __future__ import annotations

import pytest

from tests.campaign.__main__ import assert_clean


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_random_faults_cost_nothing_but_time() -> None:
    """Twenty faults in four episodes, the same ones each time."""
    assert_clean("local", 20, 1)
