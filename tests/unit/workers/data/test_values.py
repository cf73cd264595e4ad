"""Which value a variable has, as a number that is the same everywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from workers.data.values import NO_VALUE, value_id, value_ids


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (0.0, -0.0), (2, np.int64(2)), (("a", 1), ["a", 1.0])])
def test_equal_values_have_equal_numbers(one: Any, other: Any) -> None:
    """Whatever type they have."""
    assert value_id(one) == value_id(other) != NO_VALUE


def test_different_values_have_different_numbers() -> None:
    """A text is no number, and a list is not its parts."""
    values = [
        0,
        1,
        2,
        "0",
        "1",
        "",
        "Anna",
        "anna",
        ["Anna"],
        ["Anna", "Bob"],
        ["Anna, Bob"],
        "['text Anna']",
        math.inf,
    ]
    assert len({value_id(value) for value in values}) == len(values)


def test_the_number_of_a_text_is_the_same_in_every_version() -> None:
    """Saved classifiers name their classes by it."""
    assert (value_id("Anna"), value_id(3)) == (373450989398232544, 78121239371754029)


@pytest.mark.parametrize("value", [None, math.nan, object(), {"a": 1}, ("a", None)])
def test_what_has_no_text_of_its_own_has_no_number(value: Any) -> None:
    """An address or an order in memory would differ from one process to the next."""
    assert value_id(value) == NO_VALUE


def test_numbers_of_an_array_are_those_of_its_values() -> None:
    """NaN has none."""
    assert value_ids(np.array([2.0, math.nan, 1.0, 2.0])).tolist() == [value_id(2), NO_VALUE, value_id(1), value_id(2)]
