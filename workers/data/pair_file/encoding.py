"""A file of pairs -> its table: rows read, checked and encoded some thousands at a time, so that a million fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from workers.data.layout import EncodedPrompts
from workers.data.pair_file.formats import formatted
from workers.data.pair_file.reading import FileError, Row, digest_of, read_rows
from workers.data.pair_file.rows import PairRow, RowError, pair_row
from workers.data.pair_file.settings import SPLITS, PairFileSettings
from workers.data.pair_file.table import PairBlock, PairTable, joined
from workers.data.pairs import UNKNOWN
from workers.data.token_ids import TokenRows
from workers.data.tokenizer import NoTokenError, Tokenizer

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
        label_B = self._answers(rows, "base", base.rows, "label")
        base_answer_B = self._answers(rows, "base", base.rows, "base_answer", known_B=label_B)
        known.share_B.append(np.array([pair.share() for pair in pairs]))
        known.blocks.append(
            PairBlock(
                hypothesis=name,
                variables=tuple(known.variables),
                base=base,
                source=source,
                label_B=label_B,
                base_answer_B=base_answer_B,
                source_answer_B=self._answers(rows, "source", source.rows, "source_answer"),
                variable_B=np.array([known.variables[pair.variable] for pair in pairs]),
                value_B=np.array([pair.value for pair in pairs]),
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
        self,
        rows: Sequence[_Placed],
        side: str,
        prompts: TokenRows,
        column: str,
        known_B: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """The token of each answer in `column` behind its prompt; `known_B` those of the labels, which it may equal."""
        answers = [getattr(row.pair, column) for row in rows]
        found_B = np.full(len(rows), UNKNOWN, dtype=np.int64)
        todo = [index for index, answer in enumerate(answers) if answer]
        if known_B is not None:
            same = [index for index in todo if answers[index] == rows[index].pair.label]
            found_B[same] = known_B[same]
            todo = [index for index in todo if answers[index] != rows[index].pair.label]
        if not todo:
            return found_B
        texts = [getattr(row.pair, side) for row in rows]
        groups: dict[tuple[str, str], list[int]] = {}
        for index in todo:
            groups.setdefault((texts[index], answers[index]), []).append(index)
        first = [group[0] for group in groups.values()]
        own = prompts.take(np.array(first))
        answered = TokenRows.of(
            self._tokenizer.encode_answered([texts[index] for index in first], [answers[index] for index in first])
        )
        follows_B = follows(own, answered)
        if not follows_B.all():
            bad = int(np.flatnonzero(~follows_B)[0])
            problem = self._not_one_token(own, answered, bad, answers[first[bad]])
            raise self._error(rows[first[bad]].place, column, problem)
        for group, token in zip(groups.values(), answered.ids[answered.start_B[1:] - 1].tolist(), strict=True):
            found_B[group] = token
        return found_B

    def _not_one_token(self, own: TokenRows, answered: TokenRows, index: int, answer: str) -> str:
        prompt, whole = own.row(index).tolist(), answered.row(index).tolist()
        extra = whole[len(prompt) :] if whole[: len(prompt)] == prompt else whole
        pieces = [self._tokenizer.piece(token) for token in extra]
        return (
            f"{answer!r} is not one token after the prompt but {pieces}; choose an answer that the tokenizer writes as "
            "a single token, a blank before it where the prompt ends without one"
        )

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


def follows(prompts: TokenRows, answered: TokenRows) -> NDArray[np.bool_]:
    """Whether each of `answered` is its prompt and one token more."""
    fits_B = answered.length_B == prompts.length_B + 1
    at = np.flatnonzero(fits_B)
    whole, own = answered.take(at), prompts.take(at)
    is_prompt = np.ones(len(whole.ids), dtype=bool)
    is_prompt[whole.start_B[1:] - 1] = False
    differs = whole.ids[is_prompt] != own.ids
    fits_B[at[np.unique(np.repeat(np.arange(len(at)), own.length_B)[differs])]] = False
    return fits_B
