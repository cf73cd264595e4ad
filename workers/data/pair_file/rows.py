"""One row of a file as a pair: its columns found, their types and texts checked."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from workers.data.pair_file.settings import COLUMNS, SPLITS, PairFileSettings
from workers.data.tokenizer import Character
from workers.tasks.base import LAST

_SPLIT_NAMES: Final = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation"}
_HASHED_BITS: Final = 64


class RowError(ValueError):
    """A row that is no pair; `column` is ours."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(column, problem)
        self.column, self.problem = column, problem


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """A pair as text. Answers are "" where they are not known, `split` where the row names none."""

    base: str
    source: str
    label: str
    hypothesis: str
    variable: str
    value: float | str | None  # None where the row has none
    base_answer: str
    source_answer: str
    base_positions: Mapping[str, Character]
    source_positions: Mapping[str, Character]
    split: str

    def share(self) -> float:
        """A number from 0 to 1 that depends on the row's texts alone: equal rows are dealt out alike."""
        texts = [self.base, self.source, self.label, self.hypothesis, self.variable]
        digest = hashlib.blake2b(json.dumps(texts).encode(), digest_size=_HASHED_BITS // 8).digest()
        return int.from_bytes(digest) / (1 << _HASHED_BITS)


def pair_row(raw: Mapping[str, Any], settings: PairFileSettings) -> PairRow:
    """The row as a pair. Raises: RowError."""
    row = {name: _found(raw, name, settings) for name in COLUMNS}
    base, label = _text(row, "base"), _text(row, "label")
    variable, source = _source(row)
    hypothesis = _text(row, "hypothesis", settings.hypothesis)
    if settings.answers and label not in settings.answers:
        raise RowError("label", f"got {label!r}; `answers` has only {', '.join(map(repr, settings.answers))}")
    positions = _mapping(row["positions"], "positions") if row["positions"] is not None else {}
    if unknown := sorted(positions.keys() - {"base", "source"}):
        raise RowError("positions", f"got the key {unknown[0]!r}; expected `base` and `source`")
    of_base = _positions(positions.get("base"), "base", base)
    of_source = _positions(positions.get("source"), "source", source)
    if of_base.keys() != of_source.keys():
        got = f"base has {', '.join(of_base) or 'none'}, source {', '.join(of_source) or 'none'}"
        raise RowError("positions", f"{got}; expected the same names in both")
    return PairRow(
        base=base,
        source=source,
        label=label,
        hypothesis=hypothesis,
        variable=variable or hypothesis,
        value=_value(row["value"]),
        base_answer=_text(row, "base_answer", ""),
        source_answer=_text(row, "source_answer", ""),
        base_positions=of_base,
        source_positions=of_source,
        split=_split(_text(row, "split", "")),
    )


def _found(raw: Mapping[str, Any], name: str, settings: PairFileSettings) -> Any:
    """The value of our column `name`; one that `columns` names must be there."""
    column = settings.columns.get(name, name)
    if column in raw:
        return raw[column]
    if name not in settings.columns:
        return None
    value: Any = raw
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise RowError(name, f"no column {column!r}; there are {', '.join(map(str, raw))}")
        value = value[part]
    return value


def _text(row: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = row[name]
    if value is None and default is not None:
        return default
    if value is None:
        raise RowError(name, "missing; a text is needed (name the file's column in `columns`)")
    if not isinstance(value, str):
        raise RowError(name, f"got {value!r} ({type(value).__name__}); expected a text")
    if not value and default is None:
        raise RowError(name, "got an empty text")
    return value


def _source(row: Mapping[str, Any]) -> tuple[str, str]:
    """The variable that is interchanged ("" where the row does not say), and the text that it is taken from."""
    variable = _text(row, "variable", "")
    if row["sources"] is None:
        return variable, _text(row, "source")
    if row["source"] is not None:
        raise RowError("sources", "both this and `source` are given; expected one of the two")
    sources = {name: text for name, text in _mapping(row["sources"], "sources").items() if text is not None}
    if not variable and len(sources) == 1:
        variable = next(iter(sources))
    if variable not in sources:
        got = f"has {', '.join(sources) or 'none'}, and `variable` is {variable or 'not given'}"
        raise RowError("sources", f"{got}; a row interchanges one variable, so `variable` names one of its sources")
    return variable, _text({"sources": sources[variable]}, "sources")


def _mapping(value: Any, name: str) -> dict[str, Any]:
    """A mapping, or its JSON text (a CSV's field)."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowError(name, f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RowError(name, f"got {value!r}; expected a mapping")
    return value


def _positions(value: Any, prompt: str, text: str) -> dict[str, Character]:
    """By name: a character of the text, or a span of it."""
    if isinstance(value, list):  # spans with names
        value = {_part(span, "name", 0): (_part(span, "start", 1), _part(span, "end", 2)) for span in value}
    found: dict[str, Character] = {}
    for name, place in (value or {}).items():
        if place is None:  # a struct of Arrow has every name of the file
            continue
        if not isinstance(name, str) or not name.isidentifier() or name in ("all", LAST):
            right = f"expected a word of letters, digits and _, but not `all` or `{LAST}` (every prompt's last token)"
            raise RowError("positions", f"{prompt} has the name {name!r}; {right}")
        found[name] = _character(place, prompt, name, text)
    return found


def _part(span: Any, key: str, index: int) -> Any:
    if isinstance(span, dict) and key in span:
        return span[key]
    if isinstance(span, (list, tuple)) and len(span) == 3:
        return span[index]
    raise RowError("positions", f"got {span!r} in a list; expected {{name, start, end}}")


def _character(place: Any, prompt: str, name: str, text: str) -> Character:
    is_span = isinstance(place, (list, tuple)) and len(place) == 2
    ends = tuple(place) if is_span else (place,)
    if not all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
        raise RowError(
            "positions", f"{prompt}.{name} is {place!r}; expected a character's index or a span [start, end)"
        )
    first, last = (ends[0], ends[1] - 1) if is_span else (ends[0], ends[0])
    if not 0 <= first <= last < len(text):
        raise RowError("positions", f"{prompt}.{name} is {place!r}, outside its text of {len(text)} characters")
    return (ends[0], ends[1]) if is_span else int(ends[0])


def _split(name: str) -> str:
    split = _SPLIT_NAMES.get(name, name)
    if split and split not in SPLITS:
        raise RowError("split", f"got {name!r}; expected {', '.join(SPLITS)}")
    return split


def _value(value: Any) -> float | str | None:
    """A number as one; a text (of a CSV) too where it is one, else as it is; None for anything else, and for ""."""
    try:
        number = float(value) if isinstance(value, (bool, int, float, str)) else math.nan
    except ValueError:
        number = math.nan
    if math.isnan(number):
        return value if isinstance(value, str) and value else None
    return number
