"""Where in a model a cell intervenes: the one type that spec, planner, engine, store and maps share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from workers.files.document import NO_OTHER_KEYS

BLOCK_OUTPUT: Final = "block_output"  # the residual stream after a decoder block: the site of a cell that names none


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
    site: str = BLOCK_OUTPUT
    unit: int | None = None

    def science(self) -> dict[str, Any]:
        """The place's part of a cell key, names ascending. The site that every cell had before there were sites is left
        out, so that the keys of earlier versions stay."""
        found: dict[str, Any] = {"layer": self.layer, "position": self.position}
        if self.site != BLOCK_OUTPUT:
            found["site"] = self.site
        if self.unit is not None:
            found["unit"] = self.unit
        return found


def span_label(places: Sequence[Place]) -> str:
    """Some places for people: `L0..15 p80..81`."""
    layers = _span("L", [place.layer for place in places])
    return f"{layers} {_span('p', [place.position for place in places])}"


def _span(letter: str, numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{letter}{low}" if low == high else f"{letter}{low}..{high}"
