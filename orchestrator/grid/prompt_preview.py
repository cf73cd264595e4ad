"""One prompt as the model reads it, token by token: what a spec's `grid.positions` can name.

It needs no grid, so that it can be shown before the positions of a spec are correct.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import SpecError
from orchestrator.grid.axes import AxisError, resolve_positions
from orchestrator.grid.expand import PromptReader
from orchestrator.grid.model import read_model
from orchestrator.spec.schema import SweepSpec
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


def example_prompt(spec: SweepSpec, *, experiment: str = "", draw: int = 0) -> ExamplePrompt:
    """The prompt number `draw` of the experiment's task, the first experiment's by default. Raises: SpecError."""
    chosen = next((one for one in spec.grid.experiments if one.name == experiment), None)
    if experiment and chosen is None:
        names = ", ".join(one.name for one in spec.grid.experiments)
        raise SpecError(f"--experiment: got {experiment!r}; {spec.source} has {names}")
    tokenizer = read_model(spec).tokenizer
    one = chosen or spec.grid.experiments[0]
    source = PromptReader(spec, tokenizer).read("task", one.task)
    hypothesis = one.hypothesis or one.name
    if hypothesis not in source.variables:
        hypothesis = next(iter(source.variables))
    try:
        layout, example = source.layout(hypothesis), source.example(hypothesis, draw)
    except (ModelError, TaskError) as error:
        raise SpecError(f"{spec.source}: key `task`: {error}") from error
    prompts = example.prompts
    places = range(layout.n_tokens) if prompts.place_BP is None else prompts.place_BP[0].tolist()
    in_grid = {places[point] for point in _points_in_grid(spec, layout)}
    named = {name: places[point] for name, point in layout.named.items()}
    tokens = []
    for index, token in enumerate(prompts.ids_BT[0].tolist()):
        label = layout.tokens[index].strip(" ") if layout.is_indexed else ""
        tokens.append(
            PromptToken(
                text=tokenizer.piece(token),
                index=index if layout.is_indexed else None,
                label=label if layout.find(label) == (index,) else "",
                names=tuple(name for name, place in named.items() if place == index),
                in_grid=index in in_grid,
            )
        )
    return ExamplePrompt(
        task=source.name,
        text=example.text,
        answer=example.answer,
        answers=example.answers,
        tokens=tuple(tokens),
    )


def _points_in_grid(spec: SweepSpec, layout: PromptLayout) -> list[int]:
    """The grid's points of these prompts; none while the spec's positions are wrong."""
    try:
        return resolve_positions(spec.grid.positions, layout)
    except AxisError:
        return []
