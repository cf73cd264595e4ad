"""Choosing cells by what they are: `grid.exclude` of a spec and `--where KEY=VALUE` of the command line.

A value is one value, a list of them, or a range such as `69..81` (both ends count).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from orchestrator.errors import SpecError
from values.numbers import INT64_MAX
from workers.files.place import AXES, PLACE_COLUMNS

CELL_FIELDS: Final = ("experiment", "hypothesis", *PLACE_COLUMNS, "token", "seed", "method", "model")
_NUMBERS: Final = frozenset({"seed", *(axis.name for axis in AXES if axis.is_number)})
_MOST_NAMED: Final = 20
_RANGE: Final = re.compile(r"^\s*(-?\d{1,18})\s*\.\.\s*(-?\d{1,18})\s*$")


def instead(word: Any, known: Iterable[Any]) -> str:
    """What to write in place of `word`: the one that looks like it, or all of them where they are few."""
    names = sorted(known, key=lambda name: (isinstance(name, str), name))
    texts = [f"`{name}`" for name in names]
    close = difflib.get_close_matches(str(word), [str(name) for name in names], n=1)
    if close and not all(isinstance(name, int) for name in names):
        return f"did you mean `{close[0]}`?"
    if len(texts) > _MOST_NAMED and all(isinstance(name, int) for name in names):
        return f"there are {texts[0]} to {texts[-1]}"
    more = f", and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
    return f"expected one of {', '.join(texts[:_MOST_NAMED])}{more}" if texts else "there is none"


def parse_range(text: str) -> tuple[int, int] | None:
    """The two ends of a range such as `69..81` or `-3..-1`, or None where `text` is none."""
    found = _RANGE.match(text)
    return (int(found[1]), int(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class _Condition:
    """One field against the values that it may have, or, negated, may not have."""

    field: str
    values: frozenset[Any]
    ranges: tuple[tuple[int, int], ...]
    negated: bool

    def without_match(self, there: Collection[Any]) -> list[Any]:
        """The values and ranges of the condition that fit none of `there`."""
        ranges = [f"{low}..{high}" for low, high in self.ranges if not any(low <= value <= high for value in there)]
        return [*sorted(self.values - set(there)), *ranges]

    def holds(self, value: Any) -> bool:
        text = value.strip() if isinstance(value, str) else value
        inside = text in self.values or (value is not None and any(low <= value <= high for low, high in self.ranges))
        return inside is not self.negated


@dataclass(frozen=True, slots=True)
class CellFilter:
    """Conditions that must all hold; without one, every cell matches."""

    conditions: tuple[_Condition, ...] = ()

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any], *, fields: Iterable[str] = CELL_FIELDS) -> CellFilter:
        """The filter of one entry of `grid.exclude`. Raises: ValueError saying what is expected."""
        known = tuple(fields)
        if not raw:
            raise ValueError(f"an empty mapping would match every cell; give some of {', '.join(known)}")
        return cls(tuple(_condition(key, value, known, negated=False) for key, value in raw.items()))

    @classmethod
    def from_options(cls, options: Iterable[str], *, fields: Iterable[str] = CELL_FIELDS) -> CellFilter:
        """The filter of `--where` options: `KEY=VALUE[,VALUE]` or `KEY!=VALUE`. Raises: SpecError."""
        known = tuple(fields)
        conditions = []
        for option in options:
            key, equals, text = option.partition("=")
            if not equals:
                raise SpecError(f"--where: got {option!r}; expected KEY=VALUE or KEY!=VALUE, for instance layer=0..3")
            try:
                values = [value.strip() for value in text.split(",")]
                conditions.append(_condition(key.rstrip("!").strip(), values, known, negated=key.endswith("!")))
            except ValueError as error:
                raise SpecError(f"--where: got {option!r}; {error}") from error
        return cls(tuple(conditions))

    def check_values(self, cells: Iterable[Mapping[str, Any]], *, option: str = "--where") -> None:
        """Nothing, where every value that a condition names occurs in `cells`; a typing error would match nothing.

        Raises: SpecError with the value and what there is.
        """
        seen: dict[str, set[Any]] = {condition.field: set() for condition in self.conditions}
        for cell in cells:
            for name, values in seen.items():
                values.add(cell[name].strip() if isinstance(cell[name], str) else cell[name])
        for condition in self.conditions:
            there = seen[condition.field] - {None}
            for value in condition.without_match(there):
                problem = f"no {condition.field} of this sweep is that; {instead(value, there)}"
                raise SpecError(f"{option}: got `{condition.field}` {value!r}; {problem}")

    def matches(self, cell: Mapping[str, Any]) -> bool:
        """Whether every condition holds of `cell`."""
        return all(condition.holds(cell[condition.field]) for condition in self.conditions)


def _condition(key: str, value: Any, known: tuple[str, ...], *, negated: bool) -> _Condition:
    if key not in known:
        raise ValueError(f"unknown key `{key}`; {instead(key, known)}")
    values: set[Any] = set()
    ranges: list[tuple[int, int]] = []
    for item in value if isinstance(value, (list, tuple)) else [value]:
        found = parse_range(item) if isinstance(item, str) and key in _NUMBERS else None
        if found:
            ranges.append(found)
        elif key not in _NUMBERS:
            values.add(str(item).strip())
        else:
            values.add(_whole_number(key, item))
    return _Condition(key, frozenset(values), tuple(ranges), negated)


def _whole_number(key: str, item: Any) -> int:
    try:
        number = int(item)
        if isinstance(item, (bool, float)) or not -INT64_MAX <= number <= INT64_MAX:
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"`{key}` is {item!r}; expected a whole number or a range such as 0..3") from None
