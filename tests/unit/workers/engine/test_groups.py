"""Rows by call: every row once, at the least cost, and each token of a prompt is run once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.workers.tiny import at, ragged_pairs, random_pairs, tiny_model
from workers.engine.groups import cost_of_a_call, filled_up, in_order, picked, read_of, row_groups, which
from workers.engine.suffix import SuffixEngine
from workers.methods.base import to_device

CPU = torch.device("cpu")
ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=9)  # beginning, tokens


def cost(rows: Sequence[tuple[int, int]], call_cost: float, n_cells: int) -> float:
    """What one call costs."""
    first, end = min(first for first, _ in rows), max(first + count for first, count in rows)
    return call_cost + n_cells * len(rows) * (end - first)


@given(rows=ROWS, call_cost=st.sampled_from([0, 3, 20, 500]), n_cells=st.integers(1, 4))
def test_rows_are_cut_at_the_least_cost(rows: list[tuple[int, int]], call_cost: float, n_cells: int) -> None:
    """Every row is in one group, in ascending order; no other cut of the rows, sorted by end and beginning, is
    cheaper."""
    first_B, end_B = np.array([[first, first + count] for first, count in rows]).T
    groups = row_groups(first_B, end_B, call_cost=call_cost, n_cells=n_cells)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(rows)))
    assert all((np.diff(group) > 0).all() for group in groups)
    found = sum(cost([rows[row] for row in group], call_cost, n_cells) for group in groups)
    kinds = sorted({(first + count, first) for first, count in rows})
    costs = []
    for ends in itertools.product([False, True], repeat=len(kinds) - 1):
        cuts = [0, *(at + 1 for at, is_end in enumerate(ends) if is_end), len(kinds)]
        parts = [kinds[start:stop] for start, stop in itertools.pairwise(cuts)]
        some = [[(f, n) for f, n in rows if (f + n, f) in part] for part in parts]
        costs.append(sum(cost(part, call_cost, n_cells) for part in some))
    assert found == min(costs)


def test_alike_rows_are_one_group() -> None:
    """Whatever a call costs."""
    (rows,) = row_groups(np.array([4, 4, 4]), np.array([9, 9, 9]), call_cost=0)
    assert which(rows) == slice(0, 3)


def test_a_call_of_a_small_block_or_on_a_gpu_is_dear() -> None:
    """In tokens: there a device computes more of them in the time that a call costs."""
    small, large = (cost_of_a_call(CPU, count) for count in (10_000, 10_000_000))
    assert small > 10 * large
    assert cost_of_a_call(torch.device("cuda"), 10_000_000) > 10 * large


@pytest.mark.parametrize("has_gradient", [False, True])
def test_parts_are_put_in_order(has_gradient: bool) -> None:
    """Rows 3, 0 and 1, 2: of several tokens each, with and without a gradient, which goes back to each part."""
    values = torch.arange(24.0).view(2, 6, 2).requires_grad_(has_gradient)
    rows, n_read_B = [np.array([0, 3]), np.array([1, 2])], np.array([2, 1, 1, 2])
    numbers = [read_of(some, n_read_B) for some in rows]
    assert [some.tolist() for some in numbers] == [[0, 1, 4, 5], [2, 3]]
    with torch.set_grad_enabled(has_gradient):
        whole = in_order([picked(values, which(some), dim=1) for some in numbers], numbers)
    assert torch.equal(whole, values)
    if has_gradient:
        weight = torch.arange(24.0).view(2, 6, 2)
        (whole * weight).sum().backward()
        assert torch.equal(values.grad, weight)


def test_shorter_parts_are_filled_up_with_zeros() -> None:
    """Rows 0 and 2 of two tokens, row 1 of three."""
    parts = [torch.ones(2, 2, 1), 2 * torch.ones(1, 3, 1)]
    found = filled_up(parts, [np.array([0, 2]), np.array([1])], dim=1)
    assert found[..., 0].tolist() == [[1, 1, 0], [2, 2, 2], [1, 1, 0]]


def test_every_prompt_costs_its_own_tokens() -> None:
    """Calls of alike pairs: the last but one block runs each prompt's tokens once in the shared forward, and in a tail
    those from its own place on, for each cell."""
    model, batch = tiny_model("llama"), to_device(ragged_pairs(9), CPU)
    n_tokens = 0

    def count(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        nonlocal n_tokens
        n_tokens += inputs[0].shape[0] * inputs[0].shape[1]

    model.blocks[1].register_forward_pre_hook(count)
    forward = SuffixEngine(model, places=at(0, 0, 2), call_cost=0).forward(batch.base, batch.source)
    assert n_tokens == batch.base.length_B.sum() + batch.source.length_B.sum()
    for point in range(3):
        n_tokens = 0
        forward.intervene(at(point, 0, 0), lambda base, source: base + source)
        assert n_tokens == 2 * (batch.base.length_B - batch.base.each_token(point)).sum()


def test_equal_prompts_are_one_call_to_the_last_bit() -> None:
    """Whatever a call costs: logits and gradients."""
    model, batch = tiny_model("llama"), to_device(random_pairs(6, 12), CPU)
    results = []
    for call_cost in (0, 1000):
        share_D = torch.linspace(0.1, 0.9, 32).requires_grad_()
        engine = SuffixEngine(model, places=at(0, 0, 1), call_cost=call_cost)
        logits_CMV = engine.forward(batch.base, batch.source).intervene(
            at(7, 0, 1), lambda base, source, share_D=share_D: base + (source - base) * share_D
        )
        results.append((logits_CMV, *torch.autograd.grad(logits_CMV.square().sum(), share_D)))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
