"""Random faults on real sweeps on SLURM: none loses, doubles or changes a row."""

from __future__ import annotations

import pytest

from tests.campaign.__main__ import assert_clean


@pytest.mark.slurm
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("testbed")
def test_random_faults_cost_nothing_but_time() -> None:
    """Twenty faults in four episodes, the same ones each time."""
    assert_clean("slurm", 20, 1)
