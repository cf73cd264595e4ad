"""The layers and positions that a spec's text means: indices, negative ones, ranges, `all`, and tokens' labels."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from orchestrator.filters import parse_range


class AxisError(ValueError):
    """A layer or position that is not there; `axis`, `got` and `right` say which, and what is."""

    def __init__(self, axis: str, got: int | str, right: str) -> None:
        super().__init__(axis, got, right)
        self.axis, self.got, self.right = axis, got, right


def resolve_layers(items: Sequence[int | str], n_layers: int) -> list[int]:
    """The decoder blocks that `items` name, each once, ascending. Raises: AxisError."""

    def unknown(label: str) -> list[int]:
        raise AxisError("layers", label, f"an index from 0 to {n_layers - 1}, a range such as 0..3, or `all` is right")

    return _resolve("layers", items, n_layers, unknown)


def resolve_positions(
    items: Sequence[int | str], tokens: Sequence[str], find: Callable[[str], Sequence[int]]
) -> list[int]:
    """The token indices that `items` name, each once, ascending; `find` gives the indices of a label.

    Raises: AxisError, also for a label that stands at several indices.
    """

    def labelled(label: str) -> list[int]:
        found = list(find(label))
        if len(found) == 1:
            return found
        if found:
            indices = ", ".join(map(str, found))
            raise AxisError("positions", label, f"the label stands at positions {indices}; give one of these")
        names = sorted({token.strip() for token in tokens if token.strip()})
        close = difflib.get_close_matches(label, names, n=3)
        nearest = (
            f"did you mean {' or '.join(map(repr, close))}?" if close else f"labels at the end: {list(tokens[-13:])}"
        )
        raise AxisError("positions", label, f"no token has this label; {nearest}")

    return _resolve("positions", items, len(tokens), labelled)


def _resolve(axis: str, items: Sequence[int | str], size: int, label: Callable[[str], list[int]]) -> list[int]:
    found: set[int] = set()
    for item in items:
        ends = parse_range(item) if isinstance(item, str) else None
        if item == "all":
            found.update(range(size))
        elif isinstance(item, int):
            found.add(_index(axis, item, item, size))
        elif ends:
            first, last = (_index(axis, end, item, size) for end in ends)
            if first > last:
                raise AxisError(axis, item, f"the range is empty; {last}..{first} is right")
            found.update(range(first, last + 1))
        else:
            found.update(label(item))
    return sorted(found)


def _index(axis: str, index: int, item: int | str, size: int) -> int:
    if not -size <= index < size:
        raise AxisError(axis, item, f"the {axis} are 0..{size - 1}, or {-size}..-1 from the end")
    return index % size
