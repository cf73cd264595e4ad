"""Causal models: run, intervene, interchange, and the descriptions that are refused."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.causal_model import CausalModel, CausalModelError, Hypothesis

CHAIN = CausalModel(
    out=lambda mid, z: mid + z, mid=lambda low: 10 * low, low=lambda x, y: x + y, answer=lambda out: out
)


def test_variables_run_after_their_parents() -> None:
    """(1 + 2) * 10 + 4 = 34, although the sum is defined last; inputs are the names that nothing defines."""
    assert CHAIN.run({"x": 1, "y": 2, "z": 4})["answer"] == 34
    assert set(CHAIN.inputs) == {"x", "y", "z"}


def summing(parents: list[str]) -> Callable[..., int]:
    """1 + twice the sum of these parents."""

    def function(*values: int) -> int:
        return 1 + 2 * sum(values)

    function.__signature__ = Signature(  # type: ignore[attr-defined]
        [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in parents]
    )
    return function


@given(st.permutations(range(6)), st.sets(st.tuples(st.integers(0, 5), st.integers(0, 5))))
def test_the_order_changes_no_value(written: list[int], edges: set[tuple[int, int]]) -> None:
    """Whatever the graph and the order in which it is written, each variable has the value of plain recursion."""
    parents = {f"v{at}": ["x", *(f"v{other}" for other in range(at) if (other, at) in edges)] for at in written}

    def value(name: str) -> int:
        return 3 if name == "x" else 1 + 2 * sum(value(parent) for parent in parents[name])

    model = CausalModel(**{name: summing(those) for name, those in parents.items()})
    assert model.run({"x": 3}) == {"x": 3} | {name: value(name) for name in parents}


def test_an_intervention_holds_and_reaches_what_follows() -> None:
    """With mid held at 5 the answer is 5 + 4, and low is computed as ever."""
    values = CHAIN.run({"x": 1, "y": 2, "z": 4}, {"mid": 5})
    assert (values["low"], values["mid"], values["answer"]) == (3, 5, 9)


def test_an_interchange_takes_one_variable_from_the_source() -> None:
    """mid is 90 in the source (4 + 5), z stays the base's 4."""
    base, source = {"x": 1, "y": 2, "z": 4}, {"x": 4, "y": 5, "z": 100}
    assert CHAIN.interchange(base, {"mid": source})["answer"] == 94


def test_each_variable_may_have_its_own_source() -> None:
    """P from a source where it is true, Q from one where it is false."""
    model = CausalModel(P=lambda a: a > 0, Q=lambda b: b > 0, answer=lambda P, Q: (P, Q))
    base = {"a": -1, "b": 1}
    sources = {"P": {"a": 1, "b": 1}, "Q": {"a": -1, "b": -1}}
    assert model.interchange(base, sources)["answer"] == (True, False)


def test_an_interchange_with_the_base_itself_changes_nothing() -> None:
    """Every variable keeps its value."""
    base = {"x": 1, "y": 2, "z": 4}
    assert CHAIN.interchange(base, {"low": base, "mid": base}) == CHAIN.run(base)


def test_a_missing_input_is_named() -> None:
    """KeyError with the input's name."""
    with pytest.raises(KeyError, match="y"):
        CHAIN.run({"x": 1, "z": 4})


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"a": lambda b: b, "b": lambda a: a}, "a, b depend on each other"),
        ({"a": lambda x: x, "b": lambda b, a: a}, "b depend on each other"),
        ({}, "at least one variable"),
    ],
)
def test_a_model_that_cannot_run_is_refused(functions: dict[str, Any], message: str) -> None:
    """A circle, a variable that is its own parent, no variable at all."""
    with pytest.raises(CausalModelError, match=message):
        CausalModel(**functions)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (("R",), r"'R' is not an inner variable; there are \['P', 'side'\]"),
        (("answer",), "'answer' is not an inner variable"),
        (("x",), "'x' is not an inner variable"),
        (("side",), "'side' never reaches the output 'answer'"),
        ((), "aligns no variable"),
    ],
)
def test_a_hypothesis_that_aligns_nothing_is_refused(variables: tuple[str, ...], message: str) -> None:
    """Unknown, output, input, without effect, none: each says which and why."""
    model = CausalModel(P=lambda x: x > 0, side=lambda P: not P, answer=lambda P: P)
    with pytest.raises(CausalModelError, match=message):
        Hypothesis(name="h", model=model, variables=variables)
