"""A task tried out before anything runs: what it draws, says and supposes fits together."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from workers.causal_model import Hypothesis
from workers.tasks.base import LAST, AbstractTask, TaskError
from workers.tasks.blame import place_of


def probed(task: AbstractTask, n_prompts: int) -> tuple[list[str], list[Mapping[str, int]]]:
    """Some prompts, and the characters at which their named positions lie.

    Raises: TaskError where a part of the task is of the wrong kind, sampling depends on more than its generator, a
    hypothesis needs an input that is not drawn, hypotheses disagree on the right answer, or it has no text; and
    whatever the task's own code raises.
    """
    _check_kinds(task)
    draws, again = (_draws(task, n_prompts) for _ in range(2))
    for inputs, other in zip(draws, again, strict=True):
        if inputs != other:
            place = place_of(task, type(task).sample)
            raise TaskError(
                f"{place}task {task.name!r}: equal generators drew {inputs} and {other}; draw from rng alone"
            )
        check_outcomes(task, inputs)
    prompts = [task.prompt(inputs) for inputs in draws]
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise _wrong(task, "prompt", repr(prompt), "a text")
    named = [task.positions(inputs) for inputs in draws]
    for positions in named:
        _check_positions(task, positions, named[0])
    return prompts, named


def _check_positions(task: AbstractTask, positions: Any, first: Any) -> None:
    if not isinstance(positions, Mapping) or not all(
        isinstance(at, int) and not isinstance(at, bool) for at in positions.values()
    ):
        raise _wrong(task, "positions", repr(positions), "a mapping from names to indices of the prompt's characters")
    for name in positions:
        if not isinstance(name, str) or not name.isidentifier() or name in ("all", LAST):
            right = f"a word of letters, digits and _, but not `all` or `{LAST}` (the last token has this name)"
            raise _wrong(task, "positions", f"the name {name!r}", right)
    if set(positions) != set(first):
        got = f"{list(first)} for one draw and {list(positions)} for another"
        raise _wrong(task, "positions", got, "the same names for each")


def _check_kinds(task: AbstractTask) -> None:
    answers, hypotheses = task.answers, task.hypotheses
    if not isinstance(answers, Mapping) or not all(isinstance(text, str) for text in answers.values()):
        raise _wrong(task, "answers", repr(answers), "a mapping from the output's values to texts")
    if not isinstance(hypotheses, Mapping) or not hypotheses:
        raise _wrong(task, "hypotheses", repr(hypotheses), "a mapping of at least one from name to Hypothesis")
    for name, one in hypotheses.items():
        if not isinstance(one, Hypothesis):
            raise _wrong(task, "hypotheses", f"{name!r}: {one!r}", "a Hypothesis")


def _draws(task: AbstractTask, n_prompts: int) -> Sequence[Mapping[str, Any]]:
    rng = random.Random(0)
    draws = [task.sample(rng) for _ in range(n_prompts)]
    for inputs in draws:
        if not isinstance(inputs, Mapping):
            raise _wrong(task, "sample", repr(inputs), "a mapping from each input's name to its value")
        for hypothesis in task.hypotheses.values():
            _check_inputs(task, hypothesis, inputs)
    return draws


def _check_inputs(task: AbstractTask, hypothesis: Hypothesis, inputs: Mapping[str, Any]) -> None:
    model = hypothesis.model
    for variable, parents in model.parents.items():
        for parent in parents:
            if parent not in inputs and parent not in model.functions:
                place = place_of(task, model.functions[variable])
                drawn = ", ".join(map(str, inputs))
                raise TaskError(
                    f"{place}task {task.name!r}, hypothesis {hypothesis.name!r}: {variable} needs {parent!r}, "
                    f"and sample draws {drawn} only"
                )


def check_outcomes(task: AbstractTask, inputs: Mapping[str, Any]) -> None:
    """Raises: TaskError where the hypotheses disagree on the right answer for `inputs`, or it has no text."""
    said = {name: one.model.run(inputs)[one.model.output] for name, one in task.hypotheses.items()}
    outcome, place = task.outcome(inputs), place_of(task, type(task).hypotheses)
    if any(other != outcome for other in said.values()):
        raise TaskError(f"{place}task {task.name!r}: hypotheses disagree on the right answer for {inputs}: {said}")
    if outcome not in task.answers:
        place, known = place_of(task, type(task).answers), list(task.answers)
        raise TaskError(
            f"{place}task {task.name!r}: output {outcome!r} (of {inputs}) has no answer; answers are given for {known}"
        )


def _wrong(task: AbstractTask, part: str, got: str, right: str) -> TaskError:
    return TaskError(
        f"{place_of(task, getattr(type(task), part))}task {task.name!r}: {part} gave {got}; expected {right}"
    )
