"""Where a task's tokens lie in a model's prompt: their number, labels, common prefix, and the answers' token ids.

A **point** is where cells intervene. Where all prompts have equally many tokens, point p is token p; a named position
of the task that always lies at one token is another word for it, and one that moves about is a further point. Where
prompts differ in length, the named positions and `last` are all there is.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from workers.data.answers import MAX_ANSWER_TOKENS, is_prefix
from workers.data.token_ids import Prompts, TokenRows
from workers.data.tokenizer import NoTokenError, Tokenizer
from workers.tasks.base import LAST, AbstractTask, TaskError
from workers.tasks.blame import blamed, place_of
from workers.tasks.probing import probed

_N_PROBES: Final = 256  # prompts looked at; a job checks every prompt that it uses


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPrompts:
    """Prompts in tokens, and the token at which each named position lies, `last` among them."""

    rows: TokenRows
    named: Mapping[str, NDArray[np.int64]]  # by name: the token in each prompt

    @classmethod
    def of(cls, rows: TokenRows, places: Mapping[str, NDArray[np.int64]]) -> EncodedPrompts:
        """The prompts with these places, and their last token's."""
        return cls(rows=rows, named={**places, LAST: rows.length_B - 1})

    @classmethod
    def joined(cls, parts: Sequence[EncodedPrompts]) -> EncodedPrompts:
        """The prompts of all parts, which have the same names."""
        named = {name: np.concatenate([part.named[name] for part in parts]) for name in parts[0].named}
        return cls(rows=TokenRows.joined([part.rows for part in parts]), named=named)

    def take(self, rows: NDArray[np.int64]) -> EncodedPrompts:
        """The prompts numbered `rows`."""
        return EncodedPrompts(rows=self.rows.take(rows), named={name: at[rows] for name, at in self.named.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLayout:
    """`tokens[p]` is the text at point p, `digit` or `*` where prompts differ there, or its name; `named` gives the
    points by name. `tail_tokens[p]` is the mean number of tokens from it to its prompt's end. No prompt differs in the
    first `n_prefix` tokens. `is_indexed`: all prompts have `n_tokens`, and the first points are their indices."""

    n_tokens: int  # the longest prompt's
    mean_tokens: float
    is_indexed: bool
    tokens: tuple[str, ...]
    named: dict[str, int]
    tail_tokens: tuple[float, ...]
    n_prefix: int
    answer_tokens: dict[Any, int]  # output value of the causal model -> the first token's id
    answer_rest: dict[Any, tuple[int, ...]] = field(
        default_factory=dict
    )  # the further ones of answers of several tokens
    longest_answer: tuple[str, ...] = ("",)  # the text of each of its tokens

    @property
    def n_answer_tokens(self) -> int:
        """The longest answer's."""
        return len(self.longest_answer)

    def answer(self, value: Any) -> tuple[int, ...]:
        """The tokens of the causal model's output value; none where it has no answer."""
        if value not in self.answer_tokens:
            return ()
        return (self.answer_tokens[value], *self.answer_rest.get(value, ()))

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

    def prompts(self, encoded: EncodedPrompts) -> Prompts:
        """The prompts with the places of all points."""
        moving = [name for name, point in self.named.items() if not self.is_index(point)]
        if not moving:
            return Prompts.of_tokens(encoded.rows)
        indices_BT = np.tile(np.arange(self.n_tokens if self.is_indexed else 0), (len(encoded.rows), 1))
        return Prompts.of_tokens(
            encoded.rows, np.hstack([indices_BT, np.stack([encoded.named[name] for name in moving], axis=1)])
        )


def layout_of(
    encoded: EncodedPrompts,
    tokenizer: Tokenizer,
    answers: Mapping[Any, Sequence[int]],
    *,
    longest_answer: Sequence[int] = (),
) -> PromptLayout:
    """The layout that these prompts share. `answers` are the tokens of each output value; where it is empty,
    `longest_answer` are those of the longest that a prompt has."""
    longest_answer = max(answers.values(), key=len, default=longest_answer)
    length_B = encoded.rows.length_B
    is_indexed = bool((length_B == length_B[0]).all())
    tokens = [_label(encoded.rows.column(at), tokenizer) for at in range(int(length_B[0]))] if is_indexed else []
    tail_tokens = [float(len(tokens) - at) for at in range(len(tokens))]
    points: dict[str, int] = {}
    for name, place_B in encoded.named.items():
        if is_indexed and (place_B == place_B[0]).all():
            points[name] = int(place_B[0])
        else:
            points[name] = len(tokens)
            tokens.append(name)
            tail_tokens.append(float((length_B - place_B).mean()))
    return PromptLayout(
        n_tokens=int(length_B.max()),
        mean_tokens=float(length_B.mean()),
        is_indexed=is_indexed,
        tokens=tuple(tokens),
        named=points,
        tail_tokens=tuple(tail_tokens),
        n_prefix=encoded.rows.n_common,
        answer_tokens={value: tokens[0] for value, tokens in answers.items()},
        answer_rest={value: tuple(tokens[1:]) for value, tokens in answers.items() if len(tokens) > 1},
        longest_answer=tuple(tokenizer.piece(token) for token in longest_answer),
    )


def _label(ids_B: NDArray[np.int32], tokenizer: Tokenizer) -> str:
    pieces = {tokenizer.piece(int(token)) for token in np.flatnonzero(np.bincount(ids_B))}
    if len(pieces) == 1:
        return next(iter(pieces))
    return "digit" if all(piece.strip().isdigit() for piece in pieces) else "*"


def moved_positions(
    own: PromptLayout, other: PromptLayout, positions: Sequence[int], setting: str, *, from_beginning: bool = False
) -> dict[int, int]:
    """Where positions lie in the setting's prompts: a named one where its name is, a token's index as far from the
    prompt's end as in the task's own; with `from_beginning` at the same index where it is not there and the same token
    is here. Raises: TaskError when it is not there, or another token is there."""
    return {position: _moved(own, other, position, setting, from_beginning) for position in positions}


def _moved(own: PromptLayout, other: PromptLayout, position: int, setting: str, from_beginning: bool) -> int:
    if position >= len(own.tokens):
        raise TaskError(f"position {position}: the task's prompts have the positions 0 to {len(own.tokens) - 1}")
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
    if found != token and from_beginning and other.is_index(position) and other.tokens[position] == token:
        return position
    if found != token:
        raise TaskError(
            f"setting {setting!r}: position {position} ({token!r}) would move to {moved}, where {found!r} is; "
            "its prompts must end as the task's own do from that position on"
        )
    return moved


# A task's prompts ---------------------------------------------------------------------------------------------------


def read_layout(task: AbstractTask, tokenizer: Tokenizer) -> PromptLayout:
    """The layout that the task's prompts share.

    Raises: TaskError when the task's own code fails or contradicts itself, prompts differ in their number of tokens and
    the task names no positions, or an answer is no tokens of its own.
    """
    with blamed(task):
        texts, named = probed(task, _N_PROBES)
    encoded = _encode(task, tokenizer, texts, named)
    if not named[0]:
        _check_equal_lengths(task, texts, encoded.rows)
    return layout_of(encoded, tokenizer, _answer_tokens(task, texts[0], encoded.rows.row(0).tolist(), tokenizer))


def encode_prompts(
    task: AbstractTask,
    tokenizer: Tokenizer,
    layout: PromptLayout,
    texts: Sequence[str],
    named: Sequence[Mapping[str, int]],
) -> Prompts:
    """`texts` in tokens, with the places of all points; `named` says at which character each named position lies.

    Raises: TaskError for a prompt that does not fit the task's layout, or a position at no token of its prompt.
    """
    for text, characters in zip(texts, named, strict=True):
        if {*characters, LAST} != layout.named.keys():
            raise TaskError(
                f"{place_of(task, type(task).positions)}task {task.name!r}: {text[-60:]!r} has the positions "
                f"{', '.join([*characters, LAST])}, and {_N_PROBES} others had {', '.join(layout.named)}; "
                "name the same for each"
            )
    encoded = _encode(task, tokenizer, texts, named)
    if layout.is_indexed:
        _check_equal_lengths(task, texts, encoded.rows)
        n_tokens = len(encoded.rows.row(0))
        if n_tokens != layout.n_tokens:
            raise TaskError(f"task {task.name!r}: prompts of {n_tokens} tokens, {layout.n_tokens} were planned")
    for name, point in layout.named.items():
        if layout.is_index(point):
            _check_fixed(task, texts, encoded.named[name], name, point)
    return layout.prompts(encoded)


def _encode(
    task: AbstractTask, tokenizer: Tokenizer, texts: Sequence[str], named: Sequence[Mapping[str, int]]
) -> EncodedPrompts:
    try:
        return EncodedPrompts.of(*tokenizer.encode_placed(texts, named))
    except NoTokenError as error:
        text, character = texts[error.index], named[error.index][error.name]
        raise TaskError(
            f"{place_of(task, type(task).positions)}task {task.name!r}: position {error.name!r} is given as character "
            f"{character}, where {text[-60:]!r}, a prompt of {len(text)}, has no token"
        ) from error


def _check_equal_lengths(task: AbstractTask, texts: Sequence[str], rows: TokenRows) -> None:
    """Raises: TaskError showing two prompts of unequal token count."""
    first = rows.length_B[0]
    for text, length in zip(texts, rows.length_B, strict=True):
        if length != first:
            raise TaskError(
                f"{place_of(task, type(task).prompt)}task {task.name!r}: "
                f"prompts of unequal token count ({first} and {length}): "
                f"{texts[0][-60:]!r} and {text[-60:]!r}; word the prompt so that every draw has as many "
                "tokens, or name the places that count (`positions`)"
            )


def _check_fixed(task: AbstractTask, texts: Sequence[str], place_B: NDArray[np.int64], name: str, index: int) -> None:
    for text, place in zip(texts, place_B, strict=True):
        if place != index:
            raise TaskError(
                f"{place_of(task, type(task).positions)}task {task.name!r}: position {name!r} lies at token "
                f"{place} of {text[-60:]!r}, and at {index} of each of {_N_PROBES} prompts; let it move more "
                "often, or never"
            )


def _answer_tokens(
    task: AbstractTask, prompt: str, row: Sequence[int], tokenizer: Tokenizer
) -> dict[Any, tuple[int, ...]]:
    found: dict[Any, tuple[int, ...]] = {}
    place = f"{place_of(task, type(task).answers)}task {task.name!r}"
    texts = list(task.answers.values())
    for (value, text), continued in zip(
        task.answers.items(), tokenizer.encode_answered([prompt] * len(texts), texts), strict=True
    ):
        extra = continued[len(row) :] if continued[: len(row)] == row else []
        if not 1 <= len(extra) <= MAX_ANSWER_TOKENS:
            pieces = [tokenizer.piece(token) for token in extra or continued]
            raise TaskError(
                f"{place}: answer {text!r} is not one to {MAX_ANSWER_TOKENS} tokens after the prompt but {pieces}; "
                "choose a short answer that the tokenizer writes as tokens of its own"
            )
        found[value] = tuple(extra)
    if len(set(found.values())) < 2:
        raise TaskError(f"{place}: answers {texts} are the same tokens; two that differ are needed")
    for short, long in itertools.permutations(found, 2):
        if is_prefix(found[short], found[long]):
            raise TaskError(
                f"{place}: answer {task.answers[long]!r} begins with the tokens of {task.answers[short]!r}, so no "
                "token tells which is meant; put an end behind both, such as a full stop"
            )
    return found
