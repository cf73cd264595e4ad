"""The seam of tasks: how inputs are drawn, what the model reads, what it should answer, and what might be computed.

A task is about forty lines: a frozen dataclass whose fields are its settings (they enter the cell key), `sample`,
`prompt`, `answers` and `hypotheses`.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

from workers.causal_model import Hypothesis

LAST: Final = "last"  # the last token of every prompt, by name


class TaskError(ValueError):
    """A task, its settings or a user's task file must be mended; the message says where and how."""


@dataclass(frozen=True, kw_only=True)
class AbstractTask(ABC):
    """One behaviour of a language model to explain. Fields of a subclass are the task's settings: plain JSON values."""

    name: ClassVar[str]

    @abstractmethod
    def sample(self, rng: random.Random) -> dict[str, Any]:
        """One draw of the input variables that the hypotheses' causal models name."""

    @abstractmethod
    def prompt(self, inputs: Mapping[str, Any]) -> str:
        """What the model reads; its next token is the answer."""

    def positions(self, inputs: Mapping[str, Any]) -> Mapping[str, int]:
        """Named positions: for each name the index of a character of `prompt(inputs)`; the token that it lies in is
        meant. The same names for every draw; prompts of unequal length need them."""
        return {}

    @property
    @abstractmethod
    def answers(self) -> Mapping[Any, str]:
        """The text that the model must say for each value of a causal model's output: one token or several."""

    @property
    @abstractmethod
    def hypotheses(self) -> Mapping[str, Hypothesis]:
        """The hypotheses by name. All agree on the output for a run without intervention."""

    def settings(self) -> dict[str, Any]:
        """The settings that decide the data, as plain JSON, with the task's name: part of every cell key."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
        return {"name": self.name} | plain

    def outcome(self, inputs: Mapping[str, Any]) -> Any:
        """The right answer's value for one draw of the inputs."""
        model = next(iter(self.hypotheses.values())).model
        return model.run(inputs)[model.output]
