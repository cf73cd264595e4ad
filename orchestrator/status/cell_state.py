"""What is known of a planned cell: one enum, which carries each state's facts, words, mark and colours.

Everything that counts, prints or draws cells asks here: the command line, the tables, the pictures, and the report's
page, whose script and styles get the marks and colours as data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How a place without a number is drawn on a map: the same sign in a picture and on the page."""

    light: str  # face colours
    dark: str
    hatch: str  # matplotlib's
    symbol: str  # plotly's
    path: str  # the symbol as an SVG path on an 18 x 18 grid, for the page's key
    is_filled: bool = False
    is_dot: bool = False  # drawn at a third of the symbols' size


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What a state means. `mark` is None where a map shows no mark: a number is shown, or the mark of another state."""

    label: str
    meaning: str
    colour: str  # rich's name, on a terminal
    mark: Mark | None = None
    is_settled: bool = False
    is_held: bool = False
    is_open: bool = False
    is_remark: bool = False


_DONE: Final = _Facts(label="done", meaning="measured", colour="green", is_settled=True)
_RUNNING: Final = _Facts(
    label="running",
    meaning="a job has it now",
    colour="cyan",
    mark=Mark(
        light="#dfe4ea",
        dark="#39424c",
        hatch="////",
        symbol="triangle-right",
        path="M6 4 14 9 6 14Z",
        is_filled=True,
    ),
    is_held=True,
)
_FAILED: Final = _Facts(
    label="failed",
    meaning="tried, and no result; the reason is below",
    colour="red",
    mark=Mark(light="#8f9297", dark="#74787e", hatch="xxxx", symbol="x-thin", path="M5 5 13 13M13 5 5 13"),
    is_open=True,
)
_WAITING: Final = _Facts(
    label="waiting",
    meaning="in a job that waits for the cluster",
    colour="blue",
    mark=Mark(light="#eff0f2", dark="#262a2f", hatch="||||", symbol="circle-open", path="M9 5.5a3.5 3.5 0 1 0 .01 0Z"),
    is_held=True,
)
_MISSING: Final = _Facts(
    label="missing",
    meaning="planned, and in no job that waits or runs",
    colour="dim",
    mark=Mark(light="#ffffff", dark="#1d2024", hatch="....", symbol="square-open", path="M5.5 5.5h7v7h-7Z"),
    is_open=True,
)
_SKIPPED: Final = _Facts(
    label="skipped",
    meaning="not run on purpose: the model fails the gate, or the method has no meaning there",
    colour="yellow",
    mark=Mark(light="#cdd0d4", dark="#4a4e54", hatch="----", symbol="line-ew", path="M4 9h10"),
)
_INAPPLICABLE: Final = _Facts(
    label="inapplicable",
    meaning="the method has no meaning there",
    colour="dim",
    is_settled=True,
    is_remark=True,
)
_LEFT_OUT: Final = _Facts(
    label="left out",
    meaning="not run on purpose: coarse to fine found it not worth its cost, or a chain chose other places",
    colour="dim",
    mark=Mark(
        light="#f7f7f7",
        dark="#212429",
        hatch="\\\\\\\\",
        symbol="circle",
        path="M9 8a1 1 0 1 0 .01 0Z",
        is_dot=True,
    ),
    is_settled=True,
    is_remark=True,
)


class CellState(StrEnum):
    """What is known of a planned cell. The order is that of every list of states, and of precedence on a map: a place
    whose seeds are in several states shows the first of them."""

    facts: _Facts

    def __new__(cls, value: str, facts: _Facts) -> CellState:
        """The state of this value, which carries its facts."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.facts = facts
        return member

    DONE = "done", _DONE
    RUNNING = "running", _RUNNING  # in flight in a job that runs
    FAILED = "failed", _FAILED
    WAITING = "waiting", _WAITING  # in a job that waits or runs, or of which nobody knows for the moment
    MISSING = "missing", _MISSING  # in no job that waits or runs
    SKIPPED = "skipped", _SKIPPED  # the model fails the gate; a lower one lets the cell run
    INAPPLICABLE = "inapplicable", _INAPPLICABLE  # its method has no meaning for it: there is nothing to run
    LEFT_OUT = "left_out", _LEFT_OUT  # coarse to fine has not chosen it

    @property
    def label(self) -> str:
        """The state's name for people."""
        return self.facts.label

    @property
    def meaning(self) -> str:
        """What the state says, in half a sentence."""
        return self.facts.meaning

    @property
    def colour(self) -> str:
        """The state's colour on a terminal."""
        return self.facts.colour

    @property
    def is_settled(self) -> bool:
        """Nothing is left to do for the cell."""
        return self.facts.is_settled

    @property
    def is_held(self) -> bool:
        """The cell belongs to a job that waits or runs."""
        return self.facts.is_held

    @property
    def is_open(self) -> bool:
        """The cell is to be run, and no job has it."""
        return self.facts.is_open

    @property
    def is_remark(self) -> bool:
        """The cell has no number and needs none: `check` mentions it and does not complain."""
        return self.facts.is_remark

    @property
    def on_map(self) -> CellState:
        """The state that a map shows for it: the reason tells a cell that the gate skipped from one without meaning."""
        return CellState.SKIPPED if self is CellState.INAPPLICABLE else self


MARKS: Final[dict[CellState, Mark]] = {state: state.facts.mark for state in CellState if state.facts.mark is not None}
MAPPED: Final = tuple(state for state in CellState if state.on_map is state)  # the states that a map can show
