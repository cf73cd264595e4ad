"""The last digit of (a + b) * c: does the model add first, or distribute the factor? Ten answers, three hypotheses."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from workers.causal_model import CausalModel, Hypothesis
from workers.tasks.base import AbstractTask, TaskError

SUM = "What is the last digit?\n({a}+{b})"
PRODUCT = SUM + "*{c}="

HYPOTHESES = {
    "add_first": Hypothesis(
        name="add_first",
        model=CausalModel(S=lambda a, b: (a + b) % 10, answer=lambda S, c: S * c % 10),
        variables=("S",),
    ),
    "distribute": Hypothesis(
        name="distribute",
        model=CausalModel(F=lambda a, c: a * c % 10, answer=lambda F, b, c: (F + b * c) % 10),
        variables=("F",),
    ),
    "first_addend": Hypothesis(
        name="first_addend",
        model=CausalModel(A=lambda a: a % 10, answer=lambda A, b, c: (A + b) * c % 10),
        variables=("A",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Arithmetic(AbstractTask):
    """The task's settings. `addends` and `factors`: the least and the greatest. Without `factors` the prompt ends after
    the bracket, and asks for the sum."""

    name: ClassVar[str] = "arithmetic"

    addends: tuple[int, int] = (10, 99)
    factors: tuple[int, int] = (2, 9)

    def __post_init__(self) -> None:
        for key in ("addends", "factors") if self.factors else ("addends",):
            ends = list(getattr(self, key))
            if len(ends) != 2 or not all(type(end) is int for end in ends) or not 0 <= ends[0] < ends[1]:
                raise TaskError(f"{key}: got {ends}; give two whole numbers, the smaller one first")

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """Addends a and b, factor c, each uniform; c = 1 for a sum."""
        a, b = rng.randint(*self.addends), rng.randint(*self.addends)
        return {"a": a, "b": b, "c": rng.randint(*self.factors) if self.factors else 1}

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        """The question; the answer is one digit."""
        return (PRODUCT if self.factors else SUM).format(**inputs)

    def positions(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        """Where the digits lie that the answer depends on, and the bracket behind which the sum can be known."""
        text = self.prompt(inputs)
        found = {"a": text.index("+") - 1, "b": text.index(")") - 1, "bracket": text.index(")")}
        return found | ({"c": len(text) - 2} if self.factors else {})

    @property
    def answers(self) -> Mapping[Any, str]:
        """The ten digits."""
        return {digit: str(digit) for digit in range(10)}

    @property
    def hypotheses(self) -> Mapping[str, Hypothesis]:
        """Two orders of computing, and the first addend itself."""
        return HYPOTHESES
