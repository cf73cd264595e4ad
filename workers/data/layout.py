"""Where a task's tokens lie in a model's prompt: their number, labels, common prefix, and the answers' token ids.

A **point** is where cells intervene. Where all prompts have equally many tokens, point p is token p; a named position
of the task that always lies at one token is another word for it, and one that moves about is a further point. Where
prompts differ in length, the named positions and `last` are all there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from workers.data.token_ids import Prompts, n_common_prefix
from workers.data.tokenizer import Tokenizer
from workers.tasks.base import LAST, AbstractTask, TaskError
from workers.tasks.blame import blamed, place_of
from workers.tasks.probing import probed

_N_PROBES: Final = 256  # prompts looked at; a job checks every prompt that it uses


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompts:
    """Prompts in tokens, and the token at which each named position lies, `last` among them."""

    texts: Sequence[str]
    rows: Sequence[Sequence[int]]
    named: Sequence[Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLayout:
    """`tokens[p]` is the text at point p, `digit` or `*` where prompts differ there, or its name; `named` gives the
    points by name. `first_tokens[p]` is the first token at which it was seen. No prompt differs in the first `n_prefix`
    tokens. `is_indexed`: all prompts have `n_tokens`, and the first points are their indices."""

    n_tokens: int  # of the longest prompt
    is_indexed: bool
    tokens: tuple[str, ...]
    named: dict[str, int]
    first_tokens: tuple[int, ...]
    n_prefix: int
    answer_tokens: dict[Any, int]  # output value of the causal model -> token id

    def find(self, label: str) -> tuple[int, ...]:
        """The point of this name, or the indices whose token reads `label`, blanks at its ends aside (a label of blanks
        alone: exactly)."""
        if label in self.named:
            return (self.named[label],)
        wanted = label.strip(" ") or label
        return tuple(index for index, token in enumerate(self.tokens) if (token.strip(" ") or token) == wanted)

    def is_index(self, point: int) -> bool:
        """Whether the point is the token of that index, in every prompt."""
        return self.is_indexed and point < self.n_tokens

    def place(self, task: AbstractTask, encoded: EncodedPrompts) -> Prompts:
        """The prompts with the places of all points. Raises: TaskError for one that does not fit this layout."""
        for text, found in zip(encoded.texts, encoded.named, strict=True):
            if found.keys() != self.named.keys():
                raise TaskError(
                    f"{place_of(task, type(task).positions)}task {task.name!r}: {text[-60:]!r} has the positions "
                    f"{', '.join(found)}, and {_N_PROBES} others had {', '.join(self.named)}; name the same for each"
                )
        if self.is_indexed:
            _check_equal_lengths(task, encoded)
            if len(encoded.rows[0]) != self.n_tokens:
                n_tokens = len(encoded.rows[0])
                raise TaskError(f"task {task.name!r}: prompts of {n_tokens} tokens, {self.n_tokens} were planned")
        for name, point in self.named.items():
            if self.is_index(point):
                _check_fixed(task, encoded, name, point)
        moving = [name for name, point in self.named.items() if not self.is_index(point)]
        if not moving:
            return Prompts.of_rows(encoded.rows)
        places = [[named[name] for name in moving] for named in encoded.named]
        indices_BT = np.tile(np.arange(self.n_tokens if self.is_indexed else 0), (len(places), 1))
        return Prompts.of_rows(encoded.rows, np.hstack([indices_BT, np.array(places)]))


def encode_prompts(
    task: AbstractTask, tokenizer: Tokenizer, texts: Sequence[str], named: Sequence[Mapping[str, int]]
) -> EncodedPrompts:
    """`texts` in tokens; `named` says at which character of its text each named position lies.

    Raises: TaskError for a position at no token of its prompt.
    """
    if not any(named):
        rows = tokenizer.encode(texts)
        return EncodedPrompts(texts=texts, rows=rows, named=[{LAST: len(row) - 1} for row in rows])
    rows, places = [], []
    for text, characters, (row, offsets) in zip(texts, named, tokenizer.encode_with_offsets(texts), strict=True):
        found = {name: _token_at(task, text, offsets, name, at) for name, at in characters.items()}
        rows.append(row)
        places.append(found | {LAST: len(row) - 1})
    return EncodedPrompts(texts=texts, rows=rows, named=places)


def _token_at(task: AbstractTask, text: str, offsets: Sequence[tuple[int, int]], name: str, character: int) -> int:
    for index, (start, end) in enumerate(offsets):
        if start <= character < end:
            return index
    raise TaskError(
        f"{place_of(task, type(task).positions)}task {task.name!r}: position {name!r} is given as character "
        f"{character}, where {text[-60:]!r}, a prompt of {len(text)}, has no token"
    )


def read_layout(task: AbstractTask, tokenizer: Tokenizer) -> PromptLayout:
    """The layout that the task's prompts share.

    Raises: TaskError when the task's own code fails or contradicts itself, prompts differ in their number of tokens and
    the task names no positions, or an answer is not one token.
    """
    with blamed(task):
        texts, named = probed(task, _N_PROBES)
    encoded = encode_prompts(task, tokenizer, texts, named)
    is_indexed = len({len(row) for row in encoded.rows}) == 1
    if not is_indexed and not named[0]:
        _check_equal_lengths(task, encoded)
    seen = {name: [places[name] for places in encoded.named] for name in encoded.named[0]}
    tokens = [_label(set(column), tokenizer) for column in zip(*encoded.rows, strict=True)] if is_indexed else []
    first_tokens = list(range(len(tokens)))
    points: dict[str, int] = {}
    for name, places in seen.items():
        if is_indexed and len(set(places)) == 1:
            points[name] = places[0]
        else:
            points[name] = len(tokens)
            tokens.append(name)
            first_tokens.append(min(places))
    return PromptLayout(
        n_tokens=max(len(row) for row in encoded.rows),
        is_indexed=is_indexed,
        tokens=tuple(tokens),
        named=points,
        first_tokens=tuple(first_tokens),
        n_prefix=n_common_prefix(Prompts.of_rows(encoded.rows)),
        answer_tokens=_answer_tokens(task, texts[0], encoded.rows[0], tokenizer),
    )


def _check_equal_lengths(task: AbstractTask, encoded: EncodedPrompts) -> None:
    """Raises: TaskError showing two prompts of unequal token count."""
    first = encoded.rows[0]
    for text, row in zip(encoded.texts, encoded.rows, strict=True):
        if len(row) != len(first):
            raise TaskError(
                f"{place_of(task, type(task).prompt)}task {task.name!r}: "
                f"prompts of unequal token count ({len(first)} and {len(row)}): "
                f"{encoded.texts[0][-60:]!r} and {text[-60:]!r}; word the prompt so that every draw has as many "
                "tokens, or name the places that count (`positions`)"
            )


def _check_fixed(task: AbstractTask, encoded: EncodedPrompts, name: str, index: int) -> None:
    for text, places in zip(encoded.texts, encoded.named, strict=True):
        if places[name] != index:
            raise TaskError(
                f"{place_of(task, type(task).positions)}task {task.name!r}: position {name!r} lies at token "
                f"{places[name]} of {text[-60:]!r}, and at {index} of each of {_N_PROBES} prompts; let it move more "
                "often, or never"
            )


def moved_positions(own: PromptLayout, other: PromptLayout, positions: Sequence[int], setting: str) -> dict[int, int]:
    """Where positions lie in the setting's prompts: a named one where its name is, a token's index as far from the
    prompt's end as in the task's own. Raises: TaskError when it is not there, or another token stands there."""
    return {position: _moved(own, other, position, setting) for position in positions}


def _moved(own: PromptLayout, other: PromptLayout, position: int, setting: str) -> int:
    token = own.tokens[position]
    if not own.is_index(position):
        if token not in other.named:
            known = ", ".join(other.named)
            raise TaskError(f"setting {setting!r}: position {token!r} is not named in its prompts, only {known}")
        return other.named[token]
    if not other.is_indexed:
        raise TaskError(
            f"setting {setting!r}: its prompts differ in length, so that position {position} ({token!r}) is at no one "
            "place in them; a named position would be"
        )
    moved = position + other.n_tokens - own.n_tokens
    found = other.tokens[moved] if 0 <= moved < other.n_tokens else "nothing"
    if found != token:
        raise TaskError(
            f"setting {setting!r}: position {position} ({token!r}) would move to {moved}, where {found!r} stands; "
            "its prompts must end as the task's own do from that position on"
        )
    return moved


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
