"""A seeded part of tests/damage_writing.py: no file of a sweep's folder can make a command that writes fall."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.sweep import Sweep
from tests.damage_writing import WRITING, writing_campaign


def test_no_damage_makes_a_writing_command_fall(tmp_path: Path) -> None:
    """Eight damaged files, each met by every command: documented exit codes, no traceback, no result changed."""
    outcomes = list(writing_campaign(tmp_path, seed=3, n_cases=8))
    assert [fault for _, outcome in outcomes for fault in outcome.faults] == []
    assert len(outcomes) == 8 * len(WRITING)


def test_a_command_that_falls_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted error of `limit` is a fault of each case."""

    def fall(_sweep: Sweep, _n_jobs: int | None) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(Sweep, "limit", fall)
    ((_, outcome),) = writing_campaign(tmp_path, seed=1, n_cases=1, commands=("limit",))
    assert (outcome.codes, "planted" in outcome.faults[0]) == ({"limit": "KeyError"}, True)
