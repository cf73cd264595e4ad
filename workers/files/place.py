"""Where in a model a cell intervenes: the one type that spec, planner, engine, store and maps share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from workers.files.document import NO_OTHER_KEYS

BLOCK_OUTPUT: Final = "block_output"  # the residual stream after a decoder block: the site of a cell that names none
UNIT_LETTERS: Final[Mapping[str, str]] = {  # what stands before a unit's index where there is little room: `h3`, `n5`
    **dict.fromkeys(("head_output", "query", "key", "value"), "h"),
    "mlp_neurons": "n",
}


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

    @property
    def rank(self) -> tuple[int, int, str, int]:
        """What places are sorted by: position, layer, site, unit. Cells of one position share a forward pass."""
        return (self.position, self.layer, self.site, -1 if self.unit is None else self.unit)

    def science(self) -> dict[str, int | str]:
        """The place's part of a cell key, names ascending. The site that every cell had before there were sites is left
        out, so that the keys of earlier versions stay."""
        found: dict[str, int | str] = {"layer": self.layer, "position": self.position}
        if self.site != BLOCK_OUTPUT:
            found["site"] = self.site
        if self.unit is not None:
            found["unit"] = self.unit
        return found


def span_label(places: Sequence[Place]) -> str:
    """Some places for people: `L0..15 p80..81`, `L9 h3..8 p81`, `L2 query h0 p81`, `L0..3 3 sites p81`."""
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
