"""`grid.places`: sets of points that are intervened on at once, as a user writes them."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from orchestrator.spec.filters import parse_range
from values.numbers import MAX_NAME
from workers.data.sites import SITES


def listed(value: Any) -> Any:
    """One value is a list of one."""
    return value if isinstance(value, (list, tuple)) else [value]


def index_or_label(value: Any) -> Any:
    """An item of an axis. Raises: ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("expected an index, a range such as 69..81, `all` or a token's label")
    return value


def _unit(value: Any) -> Any:
    if isinstance(value, bool) or not (isinstance(value, int) or value == "all" or parse_range(str(value))):
        raise ValueError("expected an index, a range such as 3..5 or `all`")
    return value


def _known_site(value: Any) -> Any:
    if value is not None and value not in SITES:
        close = difflib.get_close_matches(str(value), SITES, n=1)
        instead = f"did you mean `{close[0]}`?" if close else f"expected one of {', '.join(SITES)}"
        raise ValueError(f"no site {value!r}; {instead}")
    return value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME)]
Places = Annotated[
    tuple[Annotated[Any, BeforeValidator(index_or_label)], ...], BeforeValidator(listed), Field(min_length=1)
]
_Units = Annotated[tuple[Annotated[Any, BeforeValidator(_unit)], ...], BeforeValidator(listed)]


class PointsSection(BaseModel):
    """Some points of a set: every combination of layers, units and positions.

    `site` is the one of the entry before where it is not given, for the first `block_output`; `position` is each of the
    grid's in turn where it is not given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    site: Annotated[str | None, BeforeValidator(_known_site)] = None
    layer: Places = (0,)
    unit: _Units = ()
    units: _Units = ()
    position: Places | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.unit and self.units:
            raise ValueError("units: both this and `unit` are given; give one of the two")
        if "layer" not in self.model_fields_set and self.site != "embeddings":
            raise ValueError("layer: missing; expected a layer, or several")
        return self


class PlaceSection(BaseModel):
    """A named set of points: one subspace of all their activations together, or one of each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    at: Annotated[tuple[PointsSection, ...], BeforeValidator(listed), Field(min_length=1)]
    subspace: Literal["one", "each"] = "one"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name in SITES:
            raise ValueError(f"name: {self.name!r} is a site; give another name")
        return self

    def points(self) -> tuple[tuple[str, PointsSection], ...]:
        """Each entry with its site."""
        found: list[tuple[str, PointsSection]] = []
        for entry in self.at:
            found.append((entry.site or (found[-1][0] if found else "block_output"), entry))
        return tuple(found)
