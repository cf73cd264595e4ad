"""The states of a cell: each has its facts, words and looks, and no other list of states is left anywhere."""

import pickle
import re
from pathlib import Path

import pytest

from orchestrator.report.page import resource, state_colours
from orchestrator.status.cell_state import MAPPED, MARKS, CellState

PROJECT = Path(__file__).parents[4]


@pytest.mark.parametrize("state", list(CellState))
def test_a_state_survives_its_journeys(state: CellState) -> None:
    """A state is found again by its value and by pickling, facts and all."""
    assert CellState(state.value) is state
    assert pickle.loads(pickle.dumps(state)).facts is state.facts


def test_a_state_is_held_open_or_neither() -> None:
    """No cell is at once in a job, to be run and settled."""
    for state in CellState:
        assert state.is_held + state.is_open + state.is_settled <= 1, state
    assert [state for state in CellState if state.is_open] == [CellState.FAILED, CellState.MISSING]


def test_every_state_that_a_map_can_show_looks_different() -> None:
    """A place without a number is told apart by its sign, in a picture and on the page; a number needs none."""
    assert set(MAPPED) - set(MARKS) == {CellState.DONE}
    for name in ("hatch", "symbol", "path", "light"):
        assert len({getattr(mark, name) for mark in MARKS.values()}) == len(MARKS), name


def test_a_state_that_shares_a_mark_names_one_that_has_it() -> None:
    """What a map shows for a state is a state that a map can show."""
    assert {state.on_map for state in CellState} == set(MAPPED)


def test_the_page_gets_the_states_as_data() -> None:
    """Neither the script nor the styles list the states: the colours are made from the enum, for both themes."""
    for file in ("base.js", "page.js", "card.js", "trace.js", "comparison.js", "page.css"):
        listed = [state for state in MARKS if re.search(rf"\b{state.value}\b\s*:", resource(file))]
        assert listed == [], file
    for mark in MARKS.values():
        assert mark.light in state_colours()
        assert mark.dark in state_colours()


def test_no_module_lists_the_states_again() -> None:
    """A literal with three or more names of states outside the enum is a second list."""
    names = "|".join(state.value for state in MARKS)
    for path in sorted((PROJECT / "orchestrator").rglob("*.py")):
        if path.name != "cell_state.py":
            text = path.read_text(encoding="utf-8")
            assert not re.search(rf'(?:["\'](?:{names})["\']\s*[,:][^"\']*){{3}}', text), path
