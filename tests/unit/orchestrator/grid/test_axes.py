"""Layers by relative depth: the same places in models of different depth."""

from __future__ import annotations

import pytest

from orchestrator.grid.axes import AxisError, resolve_layers


@pytest.mark.parametrize(
    ("items", "n_layers", "layers"),
    [
        (["0%", "100%"], 32, [0, 31]),
        (["50%"], 5, [2]),
        (["50%"], 12, [6]),  # 5.5: the later one of two that are equally near
        (["33.3%"], 4, [1]),
        (["0%..100%"], 7, [0, 1, 2, 3, 4, 5, 6]),
        (["25%..75%"], 5, [1, 2, 3]),
        (["25%..75%"], 13, [3, 4, 5, 6, 7, 8, 9]),  # 3 / 12 and 9 / 12 are 25% and 75%: both ends count
        (["0%..100%", 0], 1, [0]),
        ([0, "50%..60%", -1], 11, [0, 5, 6, 10]),
        (["0%", "25%", "50%", "75%", "100%"], 3, [0, 1, 2]),  # each once
    ],
)
def test_a_depth_is_the_block_that_lies_there(items: list[int | str], n_layers: int, layers: list[int]) -> None:
    """Block l of n lies at l / (n - 1)."""
    assert resolve_layers(items, n_layers) == layers


@pytest.mark.parametrize(
    ("item", "right"),
    [
        ("101%", "expected depths from 0% to 100%, the lower one first"),
        ("75%..25%", "expected depths from 0% to 100%, the lower one first"),
        ("26%..49%", "no block of the 5 lies between; give a depth such as 26%"),
        ("50", "expected an index from 0 to 4, a range such as 0..3, a depth such as 50%, or `all`"),
        ("-5%", "expected an index from 0 to 4, a range such as 0..3, a depth such as 50%, or `all`"),
        ("0..50%", "expected an index from 0 to 4, a range such as 0..3, a depth such as 50%, or `all`"),
    ],
)
def test_what_is_no_depth_is_refused(item: str, right: str) -> None:
    """The error has the axis, the value and what would be right."""
    with pytest.raises(AxisError) as caught:
        resolve_layers([item], 5)
    assert (caught.value.axis, caught.value.got, caught.value.right) == ("layers", item, right)
