"""The price tagging game: is an amount within a bracket of prices? Prompt, sampling and the paper's four hypotheses.

Source: Wu, Geiger, Icard, Potts, Goodman, "Interpretability at Scale", NeurIPS 2023, sections 4 and 5; the sampling's
ranges from its public code.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from workers.causal_model import CausalModel, Hypothesis
from workers.tasks.base import AbstractTask, TaskError

TEMPLATE = """Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
{context}Please say {yes} only if it costs between {lower} and {upper} dollars, otherwise {no}.

### Input:
{amount} dollars

### Response:
"""

# X lower bound, Y upper bound, Z amount, all in whole cents; both ends of the bracket count as inside.
HYPOTHESES = {
    "left_boundary": Hypothesis(
        name="left_boundary",
        model=CausalModel(P=lambda X, Z: X <= Z, answer=lambda P, Y, Z: P and Z <= Y),
        variables=("P",),
    ),
    "left_and_right_boundary": Hypothesis(
        name="left_and_right_boundary",
        model=CausalModel(P=lambda X, Z: X <= Z, Q=lambda Y, Z: Z <= Y, answer=lambda P, Q: P and Q),
        variables=("P", "Q"),
    ),
    "midpoint_distance": Hypothesis(  # all doubled, so that whole cents stay whole
        name="midpoint_distance",
        model=CausalModel(M=lambda X, Y: X + Y, answer=lambda M, X, Y, Z: abs(2 * Z - M) <= Y - X),
        variables=("M",),
    ),
    "bracket_identity": Hypothesis(
        name="bracket_identity",
        model=CausalModel(B=lambda X, Y: (X, Y), answer=lambda B, Z: B[0] <= Z <= B[1]),
        variables=("B",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class PriceTagging(AbstractTask):
    """The game's settings. `bracket`: fixed lower and upper bound in dollars (empty: drawn anew for each prompt);
    `context`: a sentence before the instruction; `answers_as`: what the model says for inside and outside; `say`: how
    the instruction words them."""

    name: ClassVar[str] = "price_tagging"

    bracket: tuple[float, ...] = ()
    context: str = ""
    answers_as: tuple[str, str] = ("Yes", "No")
    say: tuple[str, str] = ("yes", "no")

    def __post_init__(self) -> None:
        are_prices = len(self.bracket) == 2 and all(type(price) in (int, float) for price in self.bracket)
        if self.bracket and not (are_prices and 0 < self.bracket[0] < self.bracket[1] < 10):
            raise TaskError(f"bracket: got {list(self.bracket)}; give two prices, 0 < lower < upper < 10, or none")
        for key in ("answers_as", "say"):
            value = getattr(self, key)
            if len(value) != 2 or value[0] == value[1] or not all(isinstance(word, str) and word for word in value):
                raise TaskError(f"{key}: got {list(value)}; give two different words, inside first")

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """Lower bound X, upper bound Y and amount Z in cents."""
        if self.bracket:
            lower, upper = (round(100 * price) for price in self.bracket)
        else:
            width = rng.uniform(2.50, 7.50)
            low = rng.uniform(0.05, 9.95 - width)
            lower, upper = round(100 * low), round(100 * (low + width))
        return {"X": lower, "Y": upper, "Z": round(100 * rng.uniform(0.01, 9.99))}

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        """The Alpaca prompt."""
        lower, upper, amount = (f"{inputs[name] / 100:.2f}" for name in ("X", "Y", "Z"))
        context = f"{self.context} " if self.context else ""
        yes, no = self.say
        return TEMPLATE.format(context=context, yes=yes, no=no, lower=lower, upper=upper, amount=amount)

    @property
    def answers(self) -> Mapping[Any, str]:
        """Yes inside the bracket, No outside."""
        return {True: self.answers_as[0], False: self.answers_as[1]}

    @property
    def hypotheses(self) -> Mapping[str, Hypothesis]:
        """The paper's four."""
        return HYPOTHESES
