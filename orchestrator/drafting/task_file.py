"""The task file that `init` writes: a task that any model's tokenizer can read, to be changed into one's own."""

from __future__ import annotations

from typing import Final

# What a model may be asked to say: the first pair of which each is one token behind the prompt is taken.
ANSWERS: Final = (
    *((" yes", " no"), (" Yes", " No"), ("yes", "no"), ("Yes", "No"), (" true", " false"), ("True", "False")),
    *((" A", " B"), ("A", "B"), ("1", "0")),
)

_TEXT: Final = '''"""Is the first number greater than the second? Change this into your own task.

The page docs/extending.md explains each part, and `causalsweep prompt` shows the tokens.
"""

from dataclasses import dataclass

from workers.causal_model import CausalModel, Hypothesis
from workers.tasks.base import AbstractTask

# What the model might compute. A function's parameters are its parents; names without a function are inputs; the last
# function is the answer. `variables` are looked for in the model. All hypotheses agree on the answer.
HYPOTHESES = {{
    "comparison": Hypothesis(  # does it keep the outcome of the comparison?
        name="comparison",
        model=CausalModel(greater=lambda a, b: a > b, answer=lambda greater: greater),
        variables=("greater",),
    ),
    "first_number": Hypothesis(  # or the first number, to compare it later?
        name="first_number",
        model=CausalModel(first=lambda a: a, answer=lambda first, b: first > b),
        variables=("first",),
    ),
}}


@dataclass(frozen=True, kw_only=True)
class Comparison(AbstractTask):
    name = "comparison"

    def sample(self, rng):  # one draw of the inputs; draw from `rng` alone
        a, b = rng.sample(range(1, 10), 2)
        return {{"a": a, "b": b}}

    def prompt(self, inputs):  # the next token is the answer
        return "Question: Is {{a}} greater than {{b}}? Answer yes or no.\\nAnswer:".format(**inputs)

    def positions(self, inputs):  # names for grid.positions: the index of a character in the token
        text = self.prompt(inputs)
        return {{"first_number": text.index(str(inputs["a"])), "second_number": text.index(str(inputs["b"]) + "?")}}

    @property
    def answers(self):  # a value of the answer, and the one token for it
        return {{True: {yes!r}, False: {no!r}}}

    @property
    def hypotheses(self):
        return HYPOTHESES
'''


def task_text(yes: str, no: str) -> str:
    """The task file with these answers."""
    return _TEXT.format(yes=yes, no=no)
