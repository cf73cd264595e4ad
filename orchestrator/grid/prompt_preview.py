"""One prompt as the model reads it, token by token: what a spec's `grid.positions` can name.

It needs no grid, so that it can be shown before the positions of a spec are correct.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.errors import SpecError
from orchestrator.grid.axes import AxisError
from orchestrator.grid.expand import PromptReader
from orchestrator.grid.model import read_model
from orchestrator.grid.places import positions_of
from orchestrator.spec.models import ModelChoice
from orchestrator.spec.schema import Experiment, SweepSpec
from workers.data.layout import PromptLayout
from workers.data.model_info import ModelError
from workers.tasks import TaskError


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptToken:
    """One token of the prompt. `index` and `label` are what the grid can name it by (no index where prompts differ in
    length, no label where several tokens have it); `names` are the task's names for it here."""

    text: str
    index: int | None
    label: str
    names: tuple[str, ...]
    in_grid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplePrompt:
    """A drawn prompt, its right answer, and all answers that there are."""

    task: str
    text: str
    answer: str
    answers: tuple[str, ...]
    tokens: tuple[PromptToken, ...]


def example_prompt(spec: SweepSpec, *, experiment: str = "", draw: int = 0, model: str = "") -> ExamplePrompt:
    """The prompt number `draw` of the experiment's task in the tokens of a model, the first of each by default.

    Raises: SpecError.
    """
    one, read = _experiment(spec, experiment), read_model(_model(spec, model))
    tokenizer = read.tokenizer
    source = PromptReader(spec, read).read("task", one.task)
    hypothesis = one.hypothesis or one.name
    if hypothesis not in source.variables:
        hypothesis = next(iter(source.variables))
    try:
        layout, example = source.layout(hypothesis), source.example(hypothesis, draw)
    except (ModelError, TaskError) as error:
        raise SpecError(f"{spec.source}: key `task`: {error}") from error
    ids = example.prompts.ids_BT[0].tolist()
    places = None if example.prompts.place_BP is None else example.prompts.place_BP[0].tolist()
    tokens = _tokens(spec, layout, [tokenizer.piece(token) for token in ids], places)
    return ExamplePrompt(
        task=source.name,
        text=example.text,
        answer=example.answer,
        answers=example.answers,
        tokens=tokens,
    )


def _experiment(spec: SweepSpec, name: str) -> Experiment:
    """The experiment of this name, the first one where none is given. Raises: SpecError."""
    for one in spec.grid.experiments:
        if name in ("", one.name):
            return one
    names = ", ".join(one.name for one in spec.grid.experiments)
    raise SpecError(f"--experiment: got {name!r}; {spec.source} has {names}")


def _model(spec: SweepSpec, name: str) -> ModelChoice:
    """The model of this name, the first one where none is given. Raises: SpecError."""
    choices = spec.models()
    for choice in choices:
        if name in ("", choice.name):
            return choice
    raise SpecError(f"--model: got {name!r}; {spec.source} has {', '.join(choice.name for choice in choices)}")


def _tokens(
    spec: SweepSpec, layout: PromptLayout, texts: Sequence[str], places: Sequence[int] | None
) -> tuple[PromptToken, ...]:
    """The tokens of one prompt. `places` has the token of each point of the prompts, where these differ in length."""
    places = range(layout.n_tokens) if places is None else places
    in_grid = {places[point] for point in _points_in_grid(spec, layout)}
    names: dict[int, list[str]] = {}
    for name, point in layout.named.items():
        names.setdefault(places[point], []).append(name)
    labels = [token.strip(" ") for token in layout.tokens] if layout.is_indexed else [""] * len(texts)
    return tuple(
        PromptToken(
            text=text,
            index=index if layout.is_indexed else None,
            label=labels[index] if layout.find(labels[index]) == (index,) else "",
            names=tuple(names.get(index, ())),
            in_grid=index in in_grid,
        )
        for index, text in enumerate(texts)
    )


def _points_in_grid(spec: SweepSpec, layout: PromptLayout) -> list[int]:
    """The points of these prompts at which the grid has cells; none while the spec's positions are wrong."""
    try:
        return positions_of(spec, layout)
    except AxisError:
        return []
