"""What an episode cost: judged from its folder, its commands and its processes against an undisturbed run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import pandas as pd

from tests.campaign.arena import DOCUMENTED, Arena, Said
from tests.rows import attempts, science
from workers.files.failure import FailureClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Counts of what must not happen, and the seconds of work that were done again."""

    lost: int = 0  # planned cells without a row at the end
    double: int = 0  # cells with more than one row
    differing: int = 0  # rows that are not the undisturbed run's, to the last bit
    tracebacks: int = 0  # how many commands ended in one
    wrong_exits: int = 0  # commands with an exit code that the documentation does not name
    bugs: int = 0  # attempts that were classed as a mistake of the program
    overlaps: int = 0  # jobs of which two runs were alive at the same time
    left_over: int = 0  # processes of the sweep after its end
    repeated_s: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether nothing happened that must not. Work done again is a cost, not a fault."""
        return not any(value for name, value in asdict(self).items() if name != "repeated_s")

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


def judge(arena: Arena, expected: pd.DataFrame, overlaps: Iterable[str]) -> Verdict:
    """The verdict on an episode that is over."""
    sweep = arena.sweep()
    lost, double, differing = compare(sweep.results(), expected)
    tracebacks, wrong_exits = read(arena.said)
    records = attempts(sweep)
    bugs = sum(record.failure is not None and record.failure.kind is FailureClass.BUG for record in records)
    return Verdict(
        lost=lost,
        double=double,
        differing=differing,
        tracebacks=tracebacks,
        wrong_exits=wrong_exits,
        bugs=bugs,
        overlaps=len(set(overlaps)),
        left_over=len(list(arena.processes())),
        repeated_s=sum(job.lost_s for job in sweep.status().jobs),
    )


def compare(found: pd.DataFrame, expected: pd.DataFrame) -> tuple[int, int, int]:
    """How many cells are lost, doubled, and different."""
    done = found[found["status"] == "done"]
    counts = Counter(zip(done["cell_key"], done["setting"], strict=True))
    wanted = list(zip(expected["cell_key"], expected["setting"], strict=True))
    lost = sum(key not in counts for key in wanted)
    double = sum(count > 1 for count in counts.values())
    theirs = _by_key(expected)
    differing = sum(row != theirs.get(key) for key, row in _by_key(done).items())
    return lost, double, differing


def read(said: Iterable[Said]) -> tuple[int, int]:
    """How many commands printed a traceback, and how many ended with an undocumented exit code."""
    some = list(said)
    tracebacks = sum("Traceback (most recent call last)" in one.output for one in some)
    return tracebacks, sum(one.code is not None and one.code not in DOCUMENTED for one in some)


def _by_key(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """The text of each row's science by cell key and setting."""
    lines = science(rows).to_json(orient="records", lines=True, double_precision=15).splitlines()
    ordered = science(rows)
    keys = zip(ordered["cell_key"], ordered["setting"], strict=True)
    return dict(zip(keys, lines, strict=True))
