"""Indirect object identification: after `When Mary and John went to the store, John gave a drink to` comes ` Mary`.

Source: Wang, Variengien, Conmy, Shlegeris, Steinhardt, "Interpretability in the Wild: a Circuit for Indirect Object
Identification in GPT-2 small", ICLR 2023 (arXiv 2211.00593), section 2 and appendix E.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from workers.causal_model import CausalModel, Hypothesis
from workers.tasks.base import AbstractTask, TaskError

# Each is one token with the blank before it. The two groups share no name.
NAMES = {
    "usual": ("Mary", "John", "Tom", "Anna", "Paul", "Sarah", "James", "Kate", "David", "Emma", "Peter", "Lisa"),
    "other": ("Alice", "Mark", "Laura", "George", "Jane", "Robert", "Susan", "Henry"),
}
# Two names, a place, the name that comes again, an object; the answer is the other name.
TEMPLATES = {
    "usual": (
        "When {first} and {second} went to the {place}, {giver} gave {object} to",
        "After {first} and {second} came to the {place}, {giver} handed {object} to",
    ),
    "other": (
        "While {first} and {second} were at the {place}, {giver} decided to give {object} to",
        "Then, {first} and {second} had a long talk at the {place}, and {giver} gave {object} to",
    ),
}
PLACES = ("store", "school", "park", "station", "restaurant")
OBJECTS = ("a drink", "a book", "the ring", "the keys")

HYPOTHESES = {
    "repeated_first": Hypothesis(  # F: is it the first of the two names that comes again?
        name="repeated_first",
        model=CausalModel(
            F=lambda first, giver: giver == first,
            answer=lambda F, first, second: second if F else first,
        ),
        variables=("F",),
    ),
    "receiver": Hypothesis(  # N: the name that is to be said
        name="receiver",
        model=CausalModel(
            N=lambda first, second, giver: second if giver == first else first,
            answer=lambda N: N,
        ),
        variables=("N",),
    ),
}


@dataclass(frozen=True, kw_only=True)
class IndirectObject(AbstractTask):
    """`names` and `templates`: which group of each. `order`: whether the first name comes again (`ABA`), the second one
    does (`ABB`), or either (`both`)."""

    name: ClassVar[str] = "indirect_object"

    names: str = "usual"
    templates: str = "usual"
    order: str = "both"

    def __post_init__(self) -> None:
        for key, known in (("names", NAMES), ("templates", TEMPLATES), ("order", ("both", "ABA", "ABB"))):
            if getattr(self, key) not in known:
                raise TaskError(f"{key}: got {getattr(self, key)!r}; expected one of {', '.join(known)}")

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """Two names, which of them comes again, a template, a place and an object, each uniform."""
        first, second = rng.sample(NAMES[self.names], 2)
        givers = {"both": (first, second), "ABA": (first,), "ABB": (second,)}[self.order]
        return {
            "first": first,
            "second": second,
            "giver": rng.choice(givers),
            "template": rng.choice(TEMPLATES[self.templates]),
            "place": rng.choice(PLACES),
            "object": rng.choice(OBJECTS),
        }

    def prompt(self, inputs: Mapping[str, Any]) -> str:
        """The sentence up to the answer."""
        text = {key: value for key, value in inputs.items() if key != "template"}
        return inputs["template"].format(**text)

    def positions(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        """The two names, the name that comes again, and the token behind it. `last` is there of itself."""
        prompt = self.prompt(inputs)
        again = prompt.rindex(f" {inputs['giver']}") + 1
        return {
            "first": prompt.index(f" {inputs['first']}") + 1,
            "second": prompt.index(f" {inputs['second']}") + 1,
            "giver": again,
            "behind_giver": again + len(inputs["giver"]) + 1,
        }

    @property
    def answers(self) -> Mapping[Any, str]:
        """A name, with the blank before it."""
        return {name: f" {name}" for name in NAMES[self.names]}

    @property
    def hypotheses(self) -> Mapping[str, Hypothesis]:
        """The position signal and the name itself (Wang et al., section 3)."""
        return HYPOTHESES
