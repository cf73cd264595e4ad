"""Answers as rows of tokens: where two part, and where they can be compared behind a label."""

from __future__ import annotations

import numpy as np
import pytest

from workers.data.answers import UNKNOWN, Ids, answer_matrix, contrast, is_prefix, n_tokens, stacked, where_they_part


def one(*tokens: int) -> Ids:
    return answer_matrix([tokens])


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [
        (one(5), one(6), 0),
        (one(5, 6, 7), one(5, 6, 8), 2),
        (one(5, 6), one(5, 6), 0),  # the same: any token does
        (one(5), one(5, 6), UNKNOWN),  # one is the beginning of the other
        (one(5, 6), one(5), UNKNOWN),
        (one(), one(5), UNKNOWN),
    ],
)
def test_where_two_answers_part(first: Ids, second: Ids, part: int) -> None:
    """At the first token that differs; nowhere where one ends before it or is not known."""
    assert where_they_part(first, second).tolist() == [part]


@pytest.mark.parametrize(
    ("label", "first", "second", "found"),
    [
        (one(5), one(5), one(6), [0, 5, 6]),
        (one(1, 2, 3), one(1, 2, 3), one(1, 2, 4), [2, 3, 4]),
        (one(1, 2, 9), one(1, 2, 3), one(1, 2, 4), [2, 3, 4]),  # the label leads to where they part
        (one(9), one(5), one(6), [0, 5, 6]),  # at the first token no label is needed
        (one(1), one(1, 2), one(1, 3), None),  # the label ends before
        (one(4, 2), one(1, 2), one(1, 3), None),  # the label leads elsewhere
        (one(1), one(), one(1), None),
        (one(5, 6), one(5, 6), one(5, 6), [0, 5, 5]),
    ],
)
def test_where_two_answers_are_compared(label: Ids, first: Ids, second: Ids, found: list[int] | None) -> None:
    """The label's token at which they part, and their tokens there; nothing where the label does not lead there."""
    where_B3 = contrast(label, first, second)
    assert (None if where_B3 is None else where_B3[0].tolist()) == found


def test_one_pair_that_cannot_be_compared_is_enough() -> None:
    """The measure is a sum over all pairs, or nothing."""
    label = stacked([one(5), one(1)])
    assert contrast(label, stacked([one(5), one(1, 2)]), stacked([one(6), one(1, 3)])) is None
    assert label.shape == (2, 1)


def test_matrices_of_answers() -> None:
    """Filled up behind the last token; an empty answer is not known."""
    matrix = answer_matrix([(1, 2, 3), (), (4,)])
    assert matrix.tolist() == [[1, 2, 3], [UNKNOWN] * 3, [4, UNKNOWN, UNKNOWN]]
    assert n_tokens(matrix).tolist() == [3, 0, 1]
    assert np.array_equal(stacked([one(4), matrix])[0], [4, UNKNOWN, UNKNOWN])
    assert is_prefix((1, 2), (1, 2, 3))
    assert not is_prefix((1, 2), (1, 2))
