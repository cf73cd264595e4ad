"""What a sweep asks, for its page: the spec as it was planned, and a prompt with its positions marked."""

from __future__ import annotations

import html
from dataclasses import dataclass

from orchestrator.errors import SpecError
from orchestrator.grid.prompt_preview import ExamplePrompt, example_prompt
from orchestrator.report.heatmap import shown_token
from orchestrator.spec.schema import SweepSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The spec's text and a prompt; without a prompt where model or task are not there any more."""

    spec: str
    prompt: ExamplePrompt | None = None


def asked_by(spec: SweepSpec) -> Asked:
    """What `spec` asks."""
    try:
        return Asked(spec=spec.to_yaml(), prompt=example_prompt(spec))
    except SpecError:
        return Asked(spec=spec.to_yaml())


def asked_section(asked: Asked | None) -> str:
    """The section of the page; empty for a store without its sweep."""
    if asked is None:
        return ""
    return (
        "<section id='asked'><h2>What was asked</h2>"
        + _prompt(asked.prompt)
        + f"<details><summary>The spec</summary><pre>{html.escape(asked.spec)}</pre></details></section>"
    )


def _prompt(prompt: ExamplePrompt | None) -> str:
    if prompt is None:
        return ""
    tokens = "".join(_token(token.text, token.index, token.names, in_grid=token.in_grid) for token in prompt.tokens)
    return (
        f"<p>A prompt of the task {html.escape(prompt.task)} as the model reads it, token by token. The marked tokens "
        f"are the grid's positions. The correct answer here is <code>{html.escape(shown_token(prompt.answer))}</code>."
        f"</p><p class='prompt'>{tokens}</p>"
    )


def _token(text: str, index: int | None, names: tuple[str, ...], *, in_grid: bool) -> str:
    told = ", ".join([f"position {index}" if index is not None else "", *names]).strip(", ")
    marked = " class='in-grid'" if in_grid else ""
    broken = "<br>" * text.count("\n")
    return f"<span{marked} title='{html.escape(told)}'>{html.escape(shown_token(text))}</span>{broken}"
