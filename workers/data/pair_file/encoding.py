"""A file of pairs -> its table: rows read, checked and encoded some thousands at a time, so that a million fit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from workers.data.answers import MAX_ANSWER_TOKENS, UNKNOWN, Ids, answer_matrix, trimmed, where_they_part
from workers.data.layout import EncodedPrompts
from workers.data.pair_file.formats import formatted
from workers.data.pair_file.reading import FileError, Row, digest_of, read_rows
from workers.data.pair_file.rows import PairRow, RowError, pair_row
from workers.data.pair_file.settings import SPLITS, PairFileSettings
from workers.data.pair_file.table import PairBlock, PairTable, joined
from workers.data.pairs import as_number, parted
from workers.data.token_ids import TokenRows
from workers.data.tokenizer import NoTokenError, Tokenizer
from workers.data.values import value_id

_NO_SPLIT: Final = -1


def read_table(path: Path, digest: str, settings: PairFileSettings, tokenizer: Tokenizer) -> PairTable:
    """The pairs of the file whose SHA-256 is `digest`. Raises: FileError for the first row that is no pair, with its
    line and column; and when the file changes meanwhile."""
    reader = _Reader(path, settings, tokenizer)
    for chunk in read_rows(path):
        reader.add(chunk)
    if digest_of(path) != digest:
        raise FileError(path, "", "has changed while it was read; plan the sweep again")
    return reader.table()


@dataclass(slots=True, kw_only=True)
class _Hypothesis:
    """What is known of a hypothesis so far."""

    positions: tuple[str, ...]  # its first row's
    variables: dict[str, int] = field(default_factory=dict)
    blocks: list[PairBlock] = field(default_factory=list)
    share_B: list[NDArray[np.float64]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Placed:
    """A pair, its place in the file, and its number there."""

    place: str
    number: int
    pair: PairRow


class _Reader:
    """Takes rows in, and has them encoded."""

    def __init__(self, path: Path, settings: PairFileSettings, tokenizer: Tokenizer) -> None:
        self._path, self._settings, self._tokenizer = path, settings, tokenizer
        self._hypotheses: dict[str, _Hypothesis] = {}
        self._n_rows = 0

    def add(self, chunk: Sequence[Row]) -> None:
        """Encode these rows. Raises: FileError."""
        groups: dict[str, list[_Placed]] = {}
        for place, raw in chunk:
            try:
                for row in formatted(raw, self._settings.format):
                    if self._settings.is_wanted(row):
                        pair = pair_row(row, self._settings)
                        groups.setdefault(pair.hypothesis, []).append(_Placed(place, self._n_rows, pair))
            except RowError as error:
                raise self._error(place, error.column, error.problem) from error
            self._n_rows += 1
        for name, rows in groups.items():
            self._add_group(name, rows)

    def _add_group(self, name: str, rows: Sequence[_Placed]) -> None:
        names = tuple(rows[0].pair.base_positions)
        known = self._hypotheses.setdefault(name, _Hypothesis(positions=names))
        for row in rows:
            if row.pair.base_positions.keys() != set(known.positions):
                got = f"{', '.join(row.pair.base_positions) or 'none'}, and others of hypothesis {name!r} have"
                right = f"{', '.join(known.positions) or 'none'}; expected the same names in each row"
                raise self._error(row.place, "positions", f"has {got} {right}")
            known.variables.setdefault(row.pair.variable, len(known.variables))
        pairs = [row.pair for row in rows]
        base, source = self._prompts(rows, "base"), self._prompts(rows, "source")
        label_BN = self._answers(rows, "base", base.rows, "label")
        answers = {
            "label": label_BN,
            "base_answer": self._answers(rows, "base", base.rows, "base_answer", known_BN=label_BN),
            "source_answer": self._answers(rows, "source", source.rows, "source_answer"),
        }
        self._check_told_apart(rows, answers)
        first, rest = parted(answers)
        known.share_B.append(np.array([pair.share() for pair in pairs]))
        known.blocks.append(
            PairBlock(
                hypothesis=name,
                variables=tuple(known.variables),
                base=base,
                source=source,
                label_B=first["label"],
                base_answer_B=first["base_answer"],
                source_answer_B=first["source_answer"],
                rest=rest,
                variable_B=np.array([known.variables[pair.variable] for pair in pairs]),
                value_B=np.array([as_number(pair.value) for pair in pairs]),
                value_id_B=np.array([value_id(pair.value) for pair in pairs], dtype=np.int64),
                split_B=np.array([SPLITS.index(pair.split) if pair.split else _NO_SPLIT for pair in pairs]),
                row_B=np.array([row.number for row in rows]),
            )
        )

    def _prompts(self, rows: Sequence[_Placed], side: str) -> EncodedPrompts:
        texts = [getattr(row.pair, side) for row in rows]
        named = [getattr(row.pair, f"{side}_positions") for row in rows]
        try:
            encoded = EncodedPrompts.of(*self._tokenizer.encode_placed(texts, named))
        except NoTokenError as error:
            character, text = named[error.index][error.name], texts[error.index]
            problem = f"{side}.{error.name} is {character}, where {text[-60:]!r} has no token"
            raise self._error(rows[error.index].place, "positions", problem) from error
        if (empty := np.flatnonzero(encoded.rows.length_B == 0)).size:
            raise self._error(rows[empty[0]].place, side, f"got {texts[empty[0]]!r}, which has no token")
        return encoded

    def _answers(
        self, rows: Sequence[_Placed], side: str, prompts: TokenRows, column: str, known_BN: Ids | None = None
    ) -> Ids:
        """answer_BN, the tokens of each answer in `column` behind its prompt; `known_BN` those of the labels, which it
        may equal."""
        answers = [getattr(row.pair, column) for row in rows]
        todo = [index for index, answer in enumerate(answers) if answer]
        same: list[int] = []
        if known_BN is not None:
            same = [index for index in todo if answers[index] == rows[index].pair.label]
            todo = [index for index in todo if answers[index] != rows[index].pair.label]
        texts = [getattr(row.pair, side) for row in rows]
        groups: dict[tuple[str, str], list[int]] = {}
        for index in todo:
            groups.setdefault((texts[index], answers[index]), []).append(index)
        first = [group[0] for group in groups.values()]
        encoded = self._encoded(rows, prompts, first, [texts[index] for index in first], column)
        width = max(encoded.shape[1], 1 if known_BN is None else known_BN.shape[1])
        found_BN = np.full((len(rows), width), UNKNOWN, dtype=np.int64)
        if known_BN is not None:
            found_BN[same, : known_BN.shape[1]] = known_BN[same]
        for group, tokens in zip(groups.values(), encoded, strict=True):
            found_BN[group, : len(tokens)] = tokens
        return trimmed(found_BN)

    def _encoded(
        self, rows: Sequence[_Placed], prompts: TokenRows, first: Sequence[int], texts: Sequence[str], column: str
    ) -> Ids:
        """answer_BN of the rows numbered `first`. Raises: FileError for an answer that is no tokens of its own, or too
        many."""
        answers = [getattr(rows[index].pair, column) for index in first]
        if not answers:
            return np.empty((0, 1), dtype=np.int64)
        own = prompts.take(np.array(first))
        answered = TokenRows.of(self._tokenizer.encode_answered(texts, answers))
        n_tokens_B = n_behind(own, answered)
        for bad in np.flatnonzero((n_tokens_B < 1) | (n_tokens_B > MAX_ANSWER_TOKENS))[:1]:
            problem = self._no_answer(own, answered, int(bad), answers[bad])
            raise self._error(rows[first[bad]].place, column, problem)
        if self._settings.match == "first":
            return answered.ids[answered.start_B[:-1] + own.length_B].astype(np.int64)[:, None]
        return answer_matrix([answered.row(index)[-n:].tolist() for index, n in enumerate(n_tokens_B.tolist())])

    def _no_answer(self, own: TokenRows, answered: TokenRows, index: int, answer: str) -> str:
        prompt, whole = own.row(index).tolist(), answered.row(index).tolist()
        if whole[: len(prompt)] == prompt and len(whole) > len(prompt):
            n_tokens = len(whole) - len(prompt)
            return f"{answer!r} is {n_tokens} tokens; expected at most {MAX_ANSWER_TOKENS}: give its beginning"
        pieces = [self._tokenizer.piece(token) for token in whole[max(0, len(prompt) - 2) :]]
        return (
            f"{answer!r} is not tokens of its own behind the prompt, which ends as {pieces} with it; choose an answer "
            "that leaves the prompt's tokens as they are, a blank before it where the prompt ends without one"
        )

    def _check_told_apart(self, rows: Sequence[_Placed], answers: Mapping[str, Ids]) -> None:
        """Raises: FileError for two answers of a row that differ, and that no token tells apart."""
        for first, second in itertools.combinations(answers, 2):
            both_B = (answers[first][:, 0] != UNKNOWN) & (answers[second][:, 0] != UNKNOWN)
            bad_B = both_B & (where_they_part(answers[first], answers[second]) == UNKNOWN)
            if self._settings.match == "first":
                bad_B |= both_B & (answers[first][:, 0] == answers[second][:, 0])
            for index in np.flatnonzero(bad_B).tolist():
                pair = rows[index].pair
                one, other = getattr(pair, first), getattr(pair, second)
                if one != other:
                    right = "put an end behind both, such as a full stop"
                    if self._settings.match == "first":
                        right = "`match: all` compares all their tokens"
                    problem = f"{one!r} and `{second}` {other!r}: no token that counts tells them apart; {right}"
                    raise self._error(rows[index].place, first, problem)

    def table(self) -> PairTable:
        """All rows. Raises: FileError where there is none."""
        if not self._hypotheses:
            why = f"none of its {self._n_rows:,} rows has {self._settings.where}" if self._n_rows else "has no row"
            raise FileError(self._path, "", why)
        return PairTable(blocks={name: self._dealt(known) for name, known in self._hypotheses.items()})

    def _dealt(self, known: _Hypothesis) -> PairBlock:
        """The hypothesis's pairs, each in a split: its own, or by its hash."""
        block, share_B = joined(known.blocks), np.concatenate(known.share_B)
        shares = self._settings.shares
        train, validation = shares.get("train", 0.0), shares.get("validation", 0.0)
        hashed_B = np.searchsorted([train, train + validation], share_B, side="right")
        named_B = block.split_B != _NO_SPLIT
        split_B = np.where(named_B, block.split_B, hashed_B)
        if named_B.all() and not (split_B == SPLITS.index("validation")).any():
            is_watched_B = (split_B == SPLITS.index("train")) & (share_B < validation / (train + validation))
            split_B = np.where(is_watched_B, SPLITS.index("validation"), split_B)
        return replace(block, split_B=split_B.astype(np.int64), variables=tuple(known.variables))

    def _error(self, place: str, column: str, problem: str) -> FileError:
        return FileError(self._path, place, f"column `{self._settings.columns_of(column)}`: {problem}")


def n_behind(prompts: TokenRows, answered: TokenRows) -> NDArray[np.int64]:
    """How many tokens follow each prompt in `answered`; 0 where that does not begin with the prompt's own tokens."""
    n_behind_B = np.maximum(answered.length_B - prompts.length_B, 0)
    at = np.flatnonzero(n_behind_B)
    whole, own = answered.take(at), prompts.take(at)
    inside = np.arange(len(whole.ids)) - np.repeat(whole.start_B[:-1], whole.length_B)
    is_prompt = inside < np.repeat(own.length_B, whole.length_B)
    differs = whole.ids[is_prompt] != own.ids
    n_behind_B[at[np.unique(np.repeat(np.arange(len(at)), own.length_B)[differs])]] = 0
    return n_behind_B
