"""The layers, positions and units that a spec means: indices, negative ones, ranges, `all`, names, tokens' labels."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from orchestrator.spec.filters import parse_range
from workers.data.layout import PromptLayout

_DEPTHS: Final = re.compile(r"\s*(\d{1,3}(?:\.\d{1,6})?)%(?:\s*\.\.\s*(\d{1,3}(?:\.\d{1,6})?)%)?\s*", re.ASCII)


class AxisError(ValueError):
    """A layer, position or unit that is not there; `axis`, `got` and `right` say which, and what is."""

    def __init__(self, axis: str, got: int | str, right: str) -> None:
        super().__init__(axis, got, right)
        self.axis, self.got, self.right = axis, got, right


def resolve_layers(items: Sequence[int | str], n_layers: int) -> list[int]:
    """The decoder blocks that `items` name, each once, ascending. Raises: AxisError.

    `50%` is the block nearest to that depth (block l of n lies at l / (n - 1)), and `25%..75%` are all blocks between:
    the same places in models of different depth.
    """

    def relative(label: str) -> list[int]:
        ends = _DEPTHS.fullmatch(label)
        if ends is None:
            right = f"expected an index from 0 to {n_layers - 1}, a range such as 0..3, a depth such as 50%, or `all`"
            raise AxisError("layers", label, right)
        low, high = float(ends[1]), float(ends[2] or ends[1])
        if not low <= high <= 100:
            raise AxisError("layers", label, "expected depths from 0% to 100%, the lower one first")
        last = n_layers - 1
        if ends[2] is None:
            return [int(low / 100 * last + 0.5)]
        between = [layer for layer in range(n_layers) if low * last <= 100 * layer <= high * last]
        if not between:
            raise AxisError("layers", label, f"no block of the {n_layers} lies between; give a depth such as {low:g}%")
        return between

    return _resolve("layers", items, n_layers, range(n_layers), relative)


def resolve_positions(items: Sequence[int | str], layout: PromptLayout) -> list[int]:
    """The points of the prompts that `items` name, each once, ascending.

    Raises: AxisError, also for a label that several indices have, and for an index where prompts differ in length.
    """
    no_index = f"prompts differ in length, and the places that all of them have are {', '.join(layout.named)}, or `all`"

    def labelled(label: str) -> list[int]:
        found = list(layout.find(label))
        if len(found) == 1:
            return found
        if found:
            indices = ", ".join(map(str, found))
            raise AxisError("positions", label, f"the label is at positions {indices}; give one of these")
        if not layout.is_indexed:
            raise AxisError("positions", label, no_index)
        names = sorted({*layout.named, *(token.strip() for token in layout.tokens if token.strip())})
        close = difflib.get_close_matches(label, names, n=3)
        ends = f"names: {', '.join(layout.named)}; labels at the end: {list(layout.tokens[: layout.n_tokens][-13:])}"
        nearest = f"did you mean {' or '.join(map(repr, close))}?" if close else ends
        raise AxisError("positions", label, f"no token has this label; {nearest}")

    for item in items:
        if not layout.is_indexed and (isinstance(item, int) or parse_range(item)):
            raise AxisError("positions", item, no_index)
    return _resolve("positions", items, layout.n_tokens, range(len(layout.tokens)), labelled)


def resolve_units(items: Sequence[int | str], n_units: int, name: str) -> list[int]:
    """The units of a site that `items` name, ascending; `name` is what a unit is called. Raises: AxisError.

    One that is named twice is refused: a list that overlaps is rarely what was meant.
    """
    axis = f"{name}s"

    def unknown(label: str) -> list[int]:
        raise AxisError(axis, label, f"expected an index from 0 to {n_units - 1}, a range such as 0..3, or `all`")

    found: set[int] = set()
    for item in items:
        named = set(_resolve(axis, [item], n_units, range(n_units), unknown))
        if named & found:
            raise AxisError(axis, item, f"{name} {min(named & found)} is named before; name each once")
        found |= named
    return sorted(found)


def _resolve(
    axis: str, items: Sequence[int | str], size: int, everything: Iterable[int], label: Callable[[str], list[int]]
) -> list[int]:
    found: set[int] = set()
    for item in items:
        ends = parse_range(item) if isinstance(item, str) else None
        if item == "all":
            found.update(everything)
        elif isinstance(item, int):
            found.add(_index(axis, item, item, size))
        elif ends:
            first, last = (_index(axis, end, item, size) for end in ends)
            if first > last:
                raise AxisError(axis, item, f"the range is empty; expected {last}..{first}")
            found.update(range(first, last + 1))
        else:
            found.update(label(item))
    return sorted(found)


def _index(axis: str, index: int, item: int | str, size: int) -> int:
    if not -size <= index < size:
        raise AxisError(axis, item, f"the {axis} are 0..{size - 1}, or {-size}..-1 from the end")
    return index % size
