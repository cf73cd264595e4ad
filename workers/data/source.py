"""The seam of data: where a sweep's pairs come from, in a model's tokens.

A task draws them (`workers.data.task_source`), a file has them (`workers.data.pair_file`). Either way they are
`PairSet`s that one tokenizer encoded, and a cell knows its source by `science`, its part of the cell key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.data.layout import PromptLayout
from workers.data.pairs import PairSet, PromptSet
from workers.data.token_ids import Prompts
from workers.files.folder import SweepFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """Pairs of prompts that the model answers `which` (`correct` or `incorrect`) alone, as `is_right` finds out."""

    which: str
    is_right: Callable[[PromptSet], NDArray[np.bool_]]

    def wants(self, prompts: PromptSet) -> NDArray[np.bool_]:
        """Whether each prompt is of that kind."""
        return self.is_right(prompts) == (self.which == "correct")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One prompt to look at: its text, its place in the model's tokens, its right answer, and the answers there are."""

    text: str
    prompts: Prompts  # this example's
    answer: str
    answers: tuple[str, ...]


class AbstractPairSource(ABC):
    """The pairs of each hypothesis of a task."""

    name: str  # the task's

    @property
    @abstractmethod
    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """The variables that each hypothesis aligns, by the hypothesis's name."""

    @abstractmethod
    def science(self) -> dict[str, Any]:
        """The task's part of a cell key, as plain JSON: all that decides the pairs, and no path."""

    @abstractmethod
    def layout(self, hypothesis: str) -> PromptLayout:
        """Where the tokens of the hypothesis's prompts lie. Raises: TaskError."""

    @abstractmethod
    def pairs(self, hypothesis: str, *, n_pairs: int, split: str, seed: int, keep: Keep | None = None) -> PairSet:
        """`n_pairs` pairs of the split (`train`, `validation`, `test`), or as many as there are; the same on any
        machine. Raises: TaskError."""

    @abstractmethod
    def prompts(self, hypothesis: str, *, n_prompts: int) -> PromptSet:
        """Prompts whose right answer is known, to measure the model's task accuracy on; there may be none.

        Raises: TaskError.
        """

    @abstractmethod
    def example(self, hypothesis: str, number: int) -> Example:
        """One prompt. Raises: TaskError."""

    @abstractmethod
    def check(self, hypothesis: str, splits: Sequence[str]) -> None:
        """Nothing, where pairs of these splits can be had, and their labels differ. Raises: TaskError."""

    @abstractmethod
    def carry(self, folder: SweepFolder) -> None:
        """Write into the sweep's folder what the nodes need of the user's files, where it is not there yet.

        Raises: OSError.
        """

    def gate_group(self, hypothesis: str) -> str:
        """Hypotheses of one group have the same `prompts`."""
        return ""

    def unordered(self, hypothesis: str) -> tuple[str, ...]:
        """The variables of the hypothesis that are known to have values without an order. Raises: TaskError."""
        return ()

    def nameless(self, hypothesis: str) -> tuple[str, ...]:
        """The variables of the hypothesis that are known to have values that cannot be told apart everywhere.

        Raises: TaskError.
        """
        return ()

    def n_available(self, hypothesis: str) -> Mapping[str, int]:
        """The number of pairs in each split, where it is limited."""
        return {}

    def knows_answers(self, hypothesis: str) -> bool:
        """Whether each pair's base and source have their own right answers."""
        return True
