"""Random faults on real sweeps on Ray: none loses, doubles or changes a row."""

from __future__ import annotations

import pytest

from tests.campaign.__main__ import assert_clean


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("bed")
def test_random_faults_cost_nothing_but_time() -> None:
    """Twenty faults in four episodes, the same ones each time."""
    assert_clean("ray", 20, 1)
