"""A seeded part of the campaign of tests/damage.py: no file of a sweep's folder can make a read command fall."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from orchestrator.sweep import Sweep
from tests.damage import DAMAGES, Case, campaign, cases

COMMANDS = ("status", "check", "results", "errors")


@pytest.fixture(scope="module")
def every_case(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """Every damage of every file of four sweeps, one try each."""
    return cases(tmp_path_factory.mktemp("sweeps"), seed=1, n_tries=1)


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_makes_a_command_fall(every_case: list[Case], tmp_path: Path, damage: str) -> None:
    """Three files of the sweeps, drawn for each damage: exit 0, 1 or 2, the file named, nothing else changed."""
    chosen = random.Random(f"{damage} 2").sample([case for case in every_case if case.damage == damage], 3)
    outcomes = list(campaign(tmp_path, chosen, COMMANDS))
    assert [outcome.faults for _, outcome in outcomes] == [[], [], []]
    assert all(set(outcome.codes) == set(COMMANDS) for _, outcome in outcomes)


def test_the_campaign_sees_a_command_that_falls(
    every_case: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted error of any command is a fault of its case."""

    def fall(_sweep: Sweep) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(Sweep, "status", fall)
    ((_, outcome),) = campaign(tmp_path, every_case[:1], ("status",))
    assert outcome.codes == {"status": "KeyError"}
    assert "planted" in outcome.faults[0]


def test_the_campaign_sees_a_changed_row(
    every_case: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row with another count than was measured is a fault."""
    case = next(case for case in every_case if case.sweep.name == "previous" and case.damage == "beside a stray")
    real = Sweep.results
    n_calls = iter(range(100))

    def changed(sweep: Sweep) -> object:
        rows = real(sweep)
        return rows.assign(n_correct=rows["n_correct"] + 1) if next(n_calls) else rows

    monkeypatch.setattr(Sweep, "results", lambda sweep, **_options: changed(sweep))
    ((_, outcome),) = campaign(tmp_path, [case], ("results",))
    assert "a row that nobody measured" in outcome.faults[0]
