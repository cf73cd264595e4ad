"""Where in a model a cell intervenes, at one place or at several: what spec, planner, engine, store and maps share.

`AXES` describes the fields of `Place`. Keys, job files, cells.parquet, shards, filters and tables take the axes of a
place from there, so that a new axis is a new field here. It needs a default, which is what earlier cells have meant,
and in its metadata `since`, the version of the formats that brings it.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter
from typing import Any, Final, Literal, TypeAlias, get_args, get_type_hints

from workers.files.document import NO_OTHER_KEYS

BLOCK_OUTPUT: Final = "block_output"  # the residual stream after a decoder block: the site of a cell that names none
UNIT_LETTERS: Final[Mapping[str, str]] = {  # before a unit's index where there is little room: `h3`, `n5`
    **dict.fromkeys(("head_output", "query", "key", "value"), "h"),
    "mlp_neurons": "n",
}
_SINCE_2: Final = types.MappingProxyType({"since": 2})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One place in a model.

    `layer` is the decoder block (0-based). `position` is a point of the prompts: a token's index (0-based, BOS counted)
    or the number of a named position. `site` is the activation inside the block, and `unit` which part of it (a head,
    say); None where the site has no parts.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    layer: int
    position: int
    site: str = field(default=BLOCK_OUTPUT, metadata=_SINCE_2)
    unit: int | None = field(default=None, metadata=_SINCE_2)

    @property
    def column(self) -> int | PlaceSet:
        """What cells have in common that share a forward pass: their position. A set has one of its own."""
        return self.position

    @property
    def points(self) -> tuple[Place, ...]:
        """Every place that is intervened on: this one."""
        return (self,)

    @property
    def first_layer(self) -> int:
        """The layer whose block changes first: the place's own."""
        return self.layer

    @property
    def rank(self) -> tuple[Any, ...]:
        """What places are sorted by: position, layer, then what is inside a layer, none of it first. Cells of one
        position share a forward pass."""
        return tuple([lowest if value is None else value for value, lowest in zip(_ranked(self), _LOWEST, strict=True)])

    def science(self) -> dict[str, Any]:
        """The place's part of a cell key, names ascending. What is at its default is left out, so that the keys of
        versions without that axis stay."""
        named = zip(_NAMES, _named(self), _DEFAULTS, strict=True)
        return {name: value for name, value, default in named if value != default}

    def columns(self) -> dict[str, int | str | None]:
        """The place as a table has it: each of `PLACE_COLUMNS` by name."""
        return dict(zip(_NAMES, _named(self), strict=True), place=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One field of `Place`, which is one column of every table of cells."""

    name: str
    is_number: bool  # a whole number, else a text
    is_optional: bool  # a cell may have none
    default: object  # what a cell of a version without this axis has meant; MISSING where every version has it
    since: int  # the version of job files, cells.parquet and shards that brought it


def _axes() -> tuple[Axis, ...]:
    hints = get_type_hints(Place)
    return tuple(
        Axis(
            name=one.name,
            is_number=int in (hints[one.name], *get_args(hints[one.name])),
            is_optional=types.NoneType in get_args(hints[one.name]),
            default=one.default,
            since=one.metadata.get("since", 1),
        )
        for one in fields(Place)
    )


AXES: Final = _axes()
PLACE_VERSION: Final = max(axis.since for axis in AXES)  # the least version of a format that holds places
INSIDE: Final = tuple(axis.name for axis in AXES if axis.name not in ("layer", "position"))  # what is inside a layer
# The columns of tables, in the order that people read. `place` is the name of a set of places that are intervened on
# at once.
PLACE_COLUMNS: Final = ("layer", *INSIDE, "place", "position")

_NAMES, _DEFAULTS = zip(*sorted((axis.name, axis.default) for axis in AXES), strict=True)
_named: Final = attrgetter(*_NAMES)
_ranked: Final = attrgetter("position", "layer", *INSIDE)
_LOWEST: Final = (0, 0, *(-1 if axis.is_number else "" for axis in AXES if axis.name in INSIDE))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceSet:
    """A named set of places that are intervened on at once, by layer and position.

    `subspace`: `one` of all the places' activations together, or one of `each`. `position` is where those of the places
    lie that follow the grid's positions; None where each has its own. The name is for people and not in the cell key.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    name: str
    points: tuple[Place, ...]
    subspace: Literal["one", "each"] = "one"
    position: int | None = None

    @property
    def column(self) -> int | PlaceSet:
        """Itself: no other cell shares its forward pass."""
        return self

    @property
    def first_layer(self) -> int:
        """The layer whose block changes first: the lowest of its places."""
        return min(point.layer for point in self.points)

    @property
    def rank(self) -> tuple[Any, ...]:
        """What sets are sorted by: as their first place."""
        return min(point.rank for point in self.points)

    def science(self) -> dict[str, Any]:
        """The set's part of a cell key."""
        return {"place": {"points": [point.science() for point in self.points], "subspace": self.subspace}}

    def columns(self) -> dict[str, int | str | None]:
        """The set as a table has it: its name, and the position that its places follow."""
        empty: dict[str, int | str | None] = dict.fromkeys(PLACE_COLUMNS)
        return empty | {"place": self.name, "position": self.position}


AnyPlace: TypeAlias = Place | PlaceSet


def moved(place: AnyPlace, positions: Mapping[int, int]) -> AnyPlace:
    """The place in prompts where each of its positions is that of `positions`."""
    if isinstance(place, Place):
        return replace(place, position=positions[place.position])
    points = tuple(replace(point, position=positions[point.position]) for point in place.points)
    return replace(place, points=points)


def single(places: Sequence[AnyPlace]) -> list[Place]:
    """The places of a method that has no meaning at a set of places, which a plan keeps away from it.

    Raises: TypeError for a set.
    """
    found = [place for place in places if isinstance(place, Place)]
    if len(found) < len(places):
        raise TypeError("a set of places; expected one place a cell")
    return found


def span_label(places: Sequence[AnyPlace]) -> str:
    """Some places for people: `L0..15 p80..81`, `L9 h3..8 p81`, `L2 query h0 p81`, `L0..3 3 sites p81`, `movers`."""
    names = sorted({place.name for place in places if isinstance(place, PlaceSet)})
    single = [place for place in places if isinstance(place, Place)]
    sets = [] if not names else [names[0] if len(names) == 1 else f"{len(names)} sets of places"]
    return " + ".join(([_span_label(single)] if single else []) + sets)


def _span_label(places: Sequence[Place]) -> str:
    sites = sorted({place.site for place in places})
    units = [place.unit for place in places if place.unit is not None]
    parts = [_span("L", [place.layer for place in places])]
    if len(sites) > 1:
        parts.append(f"{len(sites)} sites")
    elif sites != [BLOCK_OUTPUT] and not (units and sites == ["head_output"]):
        parts.append(sites[0])
    if units:
        letters = {UNIT_LETTERS.get(place.site, "u") for place in places if place.unit is not None}
        parts.append(_span(letters.pop() if len(letters) == 1 else "u", units))
    return " ".join([*parts, _span("p", [place.position for place in places])])


def _span(letter: str, numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{letter}{low}" if low == high else f"{letter}{low}..{high}"
