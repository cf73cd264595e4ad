"""The nearest cell under another key: the fields in which the science differs, so that its result does not count."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.audit.evidence import Evidence, planned_cells
from orchestrator.sweep import Sweep

_ABSENT: Final = "(absent)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another cell, and where it is known from."""

    where: str
    key: str
    science: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One field of the science, by its dotted name, here and there."""

    field: str
    here: Any
    there: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The nearest other cell, and each field in which it differs."""

    key: str
    where: str
    differences: tuple[Difference, ...]


def others_in(evidence: Evidence, planned: Collection[str], against: Sequence[Sweep]) -> list[Other]:
    """Cells with rows under keys that are not planned: in this folder, where a job file says what they are, and in the
    sweeps `against`. Raises: NewerFile."""
    return [
        *(
            Other(where=f"rows in {evidence.rows[key][0].source}", key=key, science=science)
            for key, science in evidence.cells_of_jobs.items()
            if key not in planned and key in evidence.rows
        ),
        *(other for sweep in against for other in _of_sweep(sweep) if other.key not in planned),
    ]


def _of_sweep(sweep: Sweep) -> Iterator[Other]:
    rows = Evidence(sweep.folder).rows
    for key, _, _, science in planned_cells(sweep.grid):
        what = "rows" if key in rows else "planned"
        yield Other(where=f"{what} in {sweep.folder.root}", key=key, science=science)


def nearest(science: Mapping[str, Any], others: Iterable[Other]) -> Comparison | None:
    """The cell that differs in the fewest fields; of equal ones that of the same place, then the first."""
    here, best = flat(science), None
    for other in others:
        there = flat(other.science)
        names = [name for name in {**here, **there} if here.get(name, _ABSENT) != there.get(name, _ABSENT)]
        rank = (len(names), sum("." not in name for name in names))
        if best is None or rank < best[0]:
            best = rank, other, there, names
    if best is None:
        return None
    _, other, there, names = best
    differences = [
        Difference(field=name, here=here.get(name, _ABSENT), there=there.get(name, _ABSENT)) for name in sorted(names)
    ]
    return Comparison(key=other.key, where=other.where, differences=tuple(differences))


def flat(science: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The fields of a cell's science by dotted names."""
    found: dict[str, Any] = {}
    for name, value in science.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found
