"""Where a task's tokens lie in a model's prompt: their number, labels, common prefix, and the answers' token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from workers.tasks.base import AbstractTask, TaskError
from workers.tasks.blame import blamed, place_of
from workers.tasks.probing import probed
from workers.tokens import Tokenizer

_N_PROBES: Final = 256  # prompts looked at; a job checks every prompt that it uses


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLayout:
    """`tokens[i]` is the text at index i, or `digit` or `*` where prompts differ; the first `n_prefix` never do."""

    n_tokens: int
    tokens: tuple[str, ...]
    n_prefix: int
    answer_tokens: dict[Any, int]  # output value of the causal model -> token id

    def find(self, label: str) -> tuple[int, ...]:
        """The indices whose token reads `label`, blanks at its ends aside (a label of blanks alone: exactly)."""
        wanted = label.strip(" ") or label
        return tuple(index for index, token in enumerate(self.tokens) if (token.strip(" ") or token) == wanted)


def read_layout(task: AbstractTask, tokenizer: Tokenizer) -> PromptLayout:
    """The layout that the task's prompts share.

    Raises: TaskError when the task's own code fails or contradicts itself, prompts differ in their number of tokens, or
    an answer is not one token.
    """
    with blamed(task):
        prompts = probed(task, _N_PROBES)
    rows = tokenizer.encode(prompts)
    check_equal_lengths(task, prompts, rows)
    columns = [set(column) for column in zip(*rows, strict=True)]
    varying = [index for index, column in enumerate(columns) if len(column) > 1]
    return PromptLayout(
        n_tokens=len(rows[0]),
        tokens=tuple(_label(column, tokenizer) for column in columns),
        n_prefix=varying[0] if varying else len(rows[0]) - 1,
        answer_tokens=_answer_tokens(task, prompts[0], rows[0], tokenizer),
    )


def check_equal_lengths(task: AbstractTask, prompts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
    """Raises: TaskError showing two prompts of unequal token count."""
    for prompt, row in zip(prompts, rows, strict=True):
        if len(row) != len(rows[0]):
            raise TaskError(
                f"{place_of(task, type(task).prompt)}task {task.name!r}: "
                f"prompts of unequal token count ({len(rows[0])} and {len(row)}): "
                f"{prompts[0][-60:]!r} and {prompt[-60:]!r}; word the prompt so that every draw has as many tokens"
            )


def _label(column: set[int], tokenizer: Tokenizer) -> str:
    pieces = {tokenizer.piece(token) for token in column}
    if len(pieces) == 1:
        return next(iter(pieces))
    return "digit" if all(piece.strip().isdigit() for piece in pieces) else "*"


def _answer_tokens(task: AbstractTask, prompt: str, row: Sequence[int], tokenizer: Tokenizer) -> dict[Any, int]:
    found: dict[Any, int] = {}
    place = place_of(task, type(task).answers)
    for value, text in task.answers.items():
        continued = tokenizer.encode([prompt + text])[0]
        if continued[: len(row)] != list(row) or len(continued) != len(row) + 1:
            extra = continued[len(row) :] if continued[: len(row)] == list(row) else continued
            pieces = [tokenizer.piece(token) for token in extra]
            raise TaskError(
                f"{place}task {task.name!r}: answer {text!r} is not one token after the prompt but {pieces}; "
                "choose an answer that the tokenizer writes as a single token"
            )
        found[value] = continued[-1]
    if len(set(found.values())) < 2:
        raise TaskError(
            f"{place}task {task.name!r}: answers {list(task.answers.values())} are one token; two are needed"
        )
    return found
