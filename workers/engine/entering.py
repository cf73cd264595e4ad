"""Where the rows of a cell enter a tail: behind which block, and how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from workers.engine.sites import REACHES_LATER_TOKENS, RESIDUAL_SITES
from workers.files.place import BLOCK_OUTPUT, Place

BEFORE_ALL: Final = -1  # the "block" behind which the rows of cells enter that intervene before block 0

# how a cell's rows come to enter the tail: the mix is the stream, or is embedded, or a block is run inside
STREAM, EMBEDDED, INSIDE, INSIDE_FROM_HERE_ON = range(4)


def entry_of(place: Place) -> int:
    """The block behind which the cell's rows enter the tail: -1 before block 0."""
    if place.site == "embeddings":
        return BEFORE_ALL
    return place.layer - 1 if place.site == "block_input" else place.layer


def entry_together(points: Sequence[Place]) -> int:
    """The block behind which the rows of a cell of several points enter: the last one that no point changes anything
    before, so that the model itself runs the inside of every block that has a point."""
    return min(point.layer if point.site == BLOCK_OUTPUT else point.layer - 1 for point in points)


def way_in(place: Place) -> int:
    """How the rows of a cell come to enter the tail."""
    if place.site in RESIDUAL_SITES:
        return STREAM
    if place.site == "embeddings":
        return EMBEDDED
    return INSIDE_FROM_HERE_ON if place.site in REACHES_LATER_TOKENS else INSIDE
