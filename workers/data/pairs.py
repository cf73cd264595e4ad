"""Interchange data: pairs of prompts and the counterfactual label of each, the same on any machine and in any order.

A pair set depends on the task's settings, the hypothesis, the split, its size and the seed alone: every cell of a
hypothesis and seed draws the same pairs, whichever job it is in.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from workers.causal_model import Hypothesis
from workers.data.answers import UNKNOWN as UNKNOWN
from workers.data.answers import Ids, answer_matrix, n_tokens
from workers.data.layout import PromptLayout, encode_prompts
from workers.data.token_ids import Prompts
from workers.data.tokenizer import Tokenizer
from workers.data.values import value_id, value_ids
from workers.files.job import content_key
from workers.tasks.base import AbstractTask, TaskError
from workers.tasks.blame import blamed, place_of
from workers.tasks.probing import check_outcomes

_MAX_DRAWS: Final = 10_000  # per pair, before the labels are called one-sided

Draw = Callable[[random.Random], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSet:
    """B pairs of prompts. `variable_B[i]` says which of the hypothesis's variables pair i interchanges.

    `value_id_B` tells values apart that are no numbers (`workers.data.values`); None where `value_B` has them all. Of
    each answer the first token is given; `rest` has the further ones of answers of several tokens, rest_BN filled up
    with `UNKNOWN`, by name: `label`, `base_answer`, `source_answer`. A name is missing where all are one token.
    """

    base: Prompts
    source: Prompts
    label_B: NDArray[np.int64]  # token id of the counterfactual answer
    variable_B: NDArray[np.int64]
    value_B: NDArray[np.float64]  # that variable's value in the base run; NaN where it is no number, so has no order
    base_answer_B: NDArray[np.int64] | None = None  # token ids of the prompts' own right answers, or UNKNOWN
    source_answer_B: NDArray[np.int64] | None = None
    rest: Mapping[str, Ids] = field(default_factory=dict)
    value_id_B: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.label_B)

    @property
    def values(self) -> NDArray[np.int64]:
        """id_B: which value the variable has in the base run; NO_VALUE where that is not known."""
        return value_ids(self.value_B) if self.value_id_B is None else self.value_id_B

    def answers(self, name: str) -> Ids | None:
        """answer_BN, all tokens of `label`, `base_answer` or `source_answer`; None where the pairs have none."""
        first_B: NDArray[np.int64] | None = getattr(self, f"{name}_B")
        return None if first_B is None else with_rest(first_B, self.rest.get(name))

    def by_length(self) -> PairSet:
        """The pairs by the length of base and label, then of source, the longest first; alike ones in their order.

        So a batch has prompts of few lengths, and what takes the most memory comes first.
        """
        label_BN = self.answers("label")
        assert label_BN is not None
        length_B = self.base.length_B + n_tokens(label_BN)
        return self.take(np.lexsort((-self.source.length_B, -length_B)))

    def take(self, rows: NDArray[np.int64] | slice) -> PairSet:
        """The pairs in `rows`."""
        return PairSet(
            base=self.base.take(rows),
            source=self.source.take(rows),
            label_B=self.label_B[rows],
            variable_B=self.variable_B[rows],
            value_B=self.value_B[rows],
            base_answer_B=None if self.base_answer_B is None else self.base_answer_B[rows],
            source_answer_B=None if self.source_answer_B is None else self.source_answer_B[rows],
            rest={name: rest_BN[rows] for name, rest_BN in self.rest.items()},
            value_id_B=None if self.value_id_B is None else self.value_id_B[rows],
        )


def with_rest(first_B: Ids, rest_BN: Ids | None) -> Ids:
    """answer_BN of the first tokens and the further ones."""
    return first_B[:, None] if rest_BN is None else np.column_stack([first_B, rest_BN])


def parted(answers: Mapping[str, Ids]) -> tuple[dict[str, Ids], dict[str, Ids]]:
    """The first tokens, and the further ones of those names where some answer has several."""
    first = {name: answer_BN[:, 0] for name, answer_BN in answers.items()}
    rest = {name: answer_BN[:, 1:] for name, answer_BN in answers.items() if answer_BN.shape[1] > 1}
    return first, rest


def stream_rng(**what: Any) -> random.Random:
    """A generator that depends on `what` alone. Python's own: its stream is the same in every version and place."""
    return random.Random(int(content_key(what), 16))


def make_pairs(
    task: AbstractTask,
    hypothesis: Hypothesis,
    tokenizer: Tokenizer,
    layout: PromptLayout,
    *,
    n_pairs: int,
    split: str,
    seed: int,
    draw: Draw | None = None,
) -> PairSet:
    """`n_pairs` balanced pairs: with two answers half of the labels are each; with more, half of the pairs change the
    answer. Each pair interchanges one of the hypothesis's variables. `draw` replaces the task's own sampling.

    Raises: TaskError when the labels come out on one side only, or a prompt does not fit the layout.
    """
    rng = stream_rng(task=task.settings(), hypothesis=hypothesis.name, split=split, n=n_pairs, seed=seed)
    draw = draw or task.sample
    with blamed(task):
        drawn = [_draw_pair(task, hypothesis, rng, draw, want_first=index % 2 == 0) for index in range(n_pairs)]
        own = [[layout.answer(task.outcome(inputs)) for inputs in pair[:2]] for pair in drawn]
    bases, sources, outcomes, variables, values = zip(*drawn, strict=True)
    base, source = (_encode(task, tokenizer, layout, inputs) for inputs in (bases, sources))
    base_answers, source_answers = zip(*own, strict=True)
    answers = {"label": map(layout.answer, outcomes), "base_answer": base_answers, "source_answer": source_answers}
    first, rest = parted({name: answer_matrix(list(some)) for name, some in answers.items()})
    return PairSet(
        base=base,
        source=source,
        label_B=first["label"],
        variable_B=np.array(variables, dtype=np.int64),
        value_B=np.array([as_number(value) for value in values], dtype=np.float64),
        value_id_B=np.array([value_id(value) for value in values], dtype=np.int64),
        base_answer_B=first["base_answer"],
        source_answer_B=first["source_answer"],
        rest=rest,
    )


def check_drawable(task: AbstractTask, hypothesis: Hypothesis) -> None:
    """Nothing, where balanced pairs can be drawn and each variable matters.

    Raises: TaskError when labels come out on one side only, or a variable's interchange never changes the answer.
    """
    rng = stream_rng(task=task.settings(), hypothesis=hypothesis.name, split="check")
    with blamed(task):
        for want_first in (True, False):
            _draw_pair(task, hypothesis, rng, task.sample, want_first=want_first)
        for variable in hypothesis.variables:
            _check_matters(task, hypothesis, variable, rng)


def _check_matters(task: AbstractTask, hypothesis: Hypothesis, variable: str, rng: random.Random) -> None:
    model = hypothesis.model
    for _ in range(_MAX_DRAWS):
        base, source = task.sample(rng), task.sample(rng)
        if model.interchange(base, {variable: source})[model.output] != model.run(base)[model.output]:
            return
    raise TaskError(
        f"{place_of(task, model.functions[variable])}task {task.name!r}, hypothesis {hypothesis.name!r}: interchanging "
        f"{variable!r} changed the answer in none of {_MAX_DRAWS} draws; align a variable that the answer depends on"
    )


def _draw_pair(
    task: AbstractTask, hypothesis: Hypothesis, rng: random.Random, draw: Draw, *, want_first: bool
) -> tuple[Mapping[str, Any], Mapping[str, Any], Any, int, Any]:
    """Base, source, counterfactual outcome, which variable is interchanged, and its value in the base run."""
    answers = list(task.answers)
    model, names = hypothesis.model, hypothesis.variables
    for _ in range(_MAX_DRAWS):
        base, source = draw(rng), draw(rng)
        variable = rng.randrange(len(names))
        outcome = model.interchange(base, {names[variable]: source})[model.output]
        if outcome not in task.answers:
            raise TaskError(
                f"{_named(task, hypothesis)}: output {outcome!r} has no answer; answers are given for {answers}"
            )
        met = outcome == answers[0] if len(answers) == 2 else outcome != model.run(base)[model.output]
        if met == want_first:
            return base, source, outcome, variable, model.run(base)[names[variable]]
    side = "label" if len(answers) == 2 else "kind of pair (answer changed or kept)"
    raise TaskError(
        f"{_named(task, hypothesis)}: {_MAX_DRAWS} draws gave one {side} only; the sampling must reach both"
    )


def _named(task: AbstractTask, hypothesis: Hypothesis) -> str:
    """Whose labels they are, and where the causal model's output is defined."""
    model = hypothesis.model
    return f"{place_of(task, model.functions[model.output])}task {task.name!r}, hypothesis {hypothesis.name!r}"


def as_number(value: Any) -> float:
    """A variable's value where it has an order, else NaN."""
    return float(value) if isinstance(value, Real) else math.nan


def _encode(
    task: AbstractTask, tokenizer: Tokenizer, layout: PromptLayout, draws: Sequence[Mapping[str, Any]]
) -> Prompts:
    with blamed(task):
        texts = [task.prompt(inputs) for inputs in draws]
        return encode_prompts(task, tokenizer, layout, texts, [task.positions(inputs) for inputs in draws])


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Single prompts with their right answers: what the gate measures the model's task accuracy on. `rest_BN` has the
    further tokens of answers of several."""

    prompts: Prompts
    label_B: NDArray[np.int64]
    rest_BN: Ids | None = None
    inputs: tuple[Mapping[str, Any], ...] = ()  # a task's draws

    @classmethod
    def of_side(cls, pairs: PairSet, side: str) -> PromptSet:
        """The pairs' prompts of that side (`base`, `source`) with their own answers, which must be known."""
        answer_BN = pairs.answers(f"{side}_answer")
        assert answer_BN is not None
        rest_BN = answer_BN[:, 1:] if answer_BN.shape[1] > 1 else None
        return cls(prompts=getattr(pairs, side), label_B=answer_BN[:, 0], rest_BN=rest_BN)

    def take(self, rows: NDArray[np.int64]) -> PromptSet:
        """The prompts in `rows`."""
        return PromptSet(
            prompts=self.prompts.take(rows),
            label_B=self.label_B[rows],
            rest_BN=None if self.rest_BN is None else self.rest_BN[rows],
            inputs=tuple(self.inputs[row] for row in rows.tolist()) if self.inputs else (),
        )

    @property
    def label_BN(self) -> Ids:  # noqa: N802
        """All tokens of the answers."""
        return with_rest(self.label_B, self.rest_BN)


def make_prompts(
    task: AbstractTask, tokenizer: Tokenizer, layout: PromptLayout, *, n_prompts: int, split: str
) -> PromptSet:
    """`n_prompts` draws of the task's own sampling, the same for every cell of the task. Raises: TaskError."""
    rng = stream_rng(task=task.settings(), split=split, n=n_prompts)
    with blamed(task):
        draws = tuple(task.sample(rng) for _ in range(n_prompts))
        for inputs in draws:
            check_outcomes(task, inputs)
        first, rest = parted({"label": answer_matrix([layout.answer(task.outcome(inputs)) for inputs in draws])})
    prompts = _encode(task, tokenizer, layout, draws)
    return PromptSet(prompts=prompts, label_B=first["label"], rest_BN=rest.get("label"), inputs=draws)
