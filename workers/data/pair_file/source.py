"""Pairs that a file has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, final

import numpy as np
from numpy.typing import NDArray

from workers.data.answers import UNKNOWN, Ids, n_tokens, stacked, trimmed
from workers.data.layout import EncodedPrompts, PromptLayout, layout_of
from workers.data.pair_file.encoding import read_table
from workers.data.pair_file.reading import digest_of
from workers.data.pair_file.settings import NAME, SPLITS, PairFileSettings
from workers.data.pair_file.table import TABLE_VERSION, PairTable
from workers.data.pairs import PairSet, PromptSet, parted, stream_rng
from workers.data.source import AbstractPairSource, Example, Keep
from workers.data.tokenizer import Tokenizer
from workers.files.folder import SweepFolder
from workers.files.job import content_key
from workers.tasks.base import TaskError

_N_SHOWN: Final = 20  # labels of an example


@final
class FileSource(AbstractPairSource):
    """The pairs of `table`. `science` is their part of a cell key; `key` names the table in a sweep's folder."""

    name = NAME

    def __init__(self, table: PairTable, tokenizer: Tokenizer, *, science: Mapping[str, Any], key: str) -> None:
        self._table, self._tokenizer = table, tokenizer
        self._science, self._key = dict(science), key
        self._layouts: dict[str, PromptLayout] = {}

    @classmethod
    def open(
        cls, options: Mapping[str, Any], tokenizer: Tokenizer, folder: SweepFolder | None, *, form: Mapping[str, Any]
    ) -> Self:
        """The source of a spec's options, whose `file` is read; or of a cell's, whose table the sweep's folder has.

        Raises: TaskError.
        """
        given = dict(options)
        file, digest = given.pop("file", None), given.pop("data_sha256", None)
        settings = PairFileSettings.parse(given)
        if file is not None:
            if not isinstance(file, str):
                raise TaskError(f"file: got {file!r}; expected the path of a file of pairs")
            digest = digest_of(Path(file))
        if digest is None:
            raise TaskError(f"file: missing; task {NAME!r} needs the path of a file of pairs")
        science = {"name": NAME, **settings.science(), "data_sha256": digest, **form}
        key = content_key({"science": science, "tokenizer": _digest(tokenizer.path), "version": TABLE_VERSION})
        saved = None if folder is None else folder.data_file(key)
        if saved is not None and (file is None or saved.exists()):
            table = PairTable.load(saved)
        elif file is None:
            raise TaskError(f"file: missing; task {NAME!r} needs the path of a file of pairs")
        else:
            table = read_table(Path(file), digest, settings, tokenizer)
        return cls(table, tokenizer, science=science, key=key)

    def carry(self, folder: SweepFolder) -> None:
        """The table, for every node to read. Raises: OSError."""
        if not folder.data_file(self._key).exists():
            self._table.save(folder.data_file(self._key))

    @property
    def variables(self) -> Mapping[str, tuple[str, ...]]:
        """Those of the file's rows."""
        return {name: block.variables for name, block in self._table.blocks.items()}

    def science(self) -> dict[str, Any]:
        """The settings, the form of the prompts, and the SHA-256 of the file."""
        return dict(self._science)

    def layout(self, hypothesis: str) -> PromptLayout:
        """That of all the hypothesis's prompts."""
        if hypothesis not in self._layouts:
            block = self._table.blocks[hypothesis]
            encoded = EncodedPrompts.joined([block.base, block.source])
            label_BN = block.answers("label")
            longest_N = label_BN[n_tokens(label_BN).argmax()]
            longest = longest_N[longest_N != UNKNOWN].tolist()
            self._layouts[hypothesis] = layout_of(encoded, self._tokenizer, {}, longest_answer=longest)
        return self._layouts[hypothesis]

    def check(self, hypothesis: str, splits: Sequence[str]) -> None:
        """Nothing, where these splits have pairs and the labels differ. Raises: TaskError."""
        block, column = self._table.blocks[hypothesis], "column `label`"
        if len(np.unique(block.answers("label"), axis=0)) < 2:
            label = self._answer(block.answers("label")[0])
            problem = f"{label!r} in all {len(block):,} rows; two different ones are needed"
            raise TaskError(f"hypothesis {hypothesis!r}, {column}: {problem}")
        available = self.n_available(hypothesis)
        for split in splits:
            if available[split] == 0:
                there = ", ".join(f"{name} {n:,}" for name, n in available.items())
                right = "name it in the column `split`, or give more rows or other `shares`"
                raise TaskError(f"hypothesis {hypothesis!r}: no row is in the split {split!r} ({there}); {right}")

    def n_available(self, hypothesis: str) -> Mapping[str, int]:
        """The number of pairs in each split."""
        block = self._table.blocks[hypothesis]
        return {split: len(block.rows_of(split)) for split in SPLITS}

    def knows_answers(self, hypothesis: str) -> bool:
        """Whether each pair's base and source have their own right answers."""
        block = self._table.blocks[hypothesis]
        return bool((block.base_answer_B != UNKNOWN).all() and (block.source_answer_B != UNKNOWN).all())

    def pairs(self, hypothesis: str, *, n_pairs: int, split: str, seed: int, keep: Keep | None = None) -> PairSet:
        """Pairs of the split in the file's order: all of them, or a choice by the seed. Raises: TaskError."""
        block = self._table.blocks[hypothesis]
        rows = block.rows_of(split)
        rng = stream_rng(task=self._science, hypothesis=hypothesis, split=split, n=n_pairs, seed=seed)
        if keep is not None:
            order = np.array(rng.sample(rows.tolist(), len(rows)), dtype=np.int64)
            rows = np.sort(self._kept(hypothesis, order, keep, n_pairs))
        elif len(rows) > n_pairs:
            rows = rows[np.sort(rng.sample(range(len(rows)), n_pairs))]
        return self._pairs(hypothesis, rows)

    def _pairs(self, hypothesis: str, rows: NDArray[np.int64]) -> PairSet:
        block, layout = self._table.blocks[hypothesis], self.layout(hypothesis)
        return PairSet(
            base=layout.prompts(block.base.take(rows)),
            source=layout.prompts(block.source.take(rows)),
            label_B=block.label_B[rows],
            variable_B=block.variable_B[rows],
            value_B=block.value_B[rows],
            value_id_B=block.value_id_B[rows],
            base_answer_B=block.base_answer_B[rows],
            source_answer_B=block.source_answer_B[rows],
            rest={name: rest_BN[rows] for name, rest_BN in block.rest.items()},
        )

    def _kept(self, hypothesis: str, order: NDArray[np.int64], keep: Keep, n_pairs: int) -> NDArray[np.int64]:
        """The first `n_pairs` of the rows `order` whose base and source are of the kind that `keep` wants."""
        if not self.knows_answers(hypothesis):
            right = "each row must have `base_answer` and `source_answer`"
            raise TaskError(f"hypothesis {hypothesis!r}: to keep {keep.which} pairs {right}")
        found: list[NDArray[np.int64]] = []
        for rows in _parts(order, 2 * n_pairs):
            pairs = self._pairs(hypothesis, rows)
            base, source = (PromptSet.of_side(pairs, side) for side in ("base", "source"))
            found.append(rows[keep.wants(base) & keep.wants(source)])
            if sum(map(len, found)) >= n_pairs:
                break
        kept = np.concatenate(found)[:n_pairs]
        if len(kept) == 0:
            problem = f"none of {len(order):,} pairs is one whose prompts the model answers {keep.which}ly"
            raise TaskError(f"hypothesis {hypothesis!r}: {problem}")
        return kept

    def prompts(self, hypothesis: str, *, n_prompts: int) -> PromptSet:
        """Bases and sources of test pairs whose own answer is known, chosen alike for every cell."""
        block, layout = self._table.blocks[hypothesis], self.layout(hypothesis)
        rows = block.rows_of("test")
        label_BN = stacked([block.answers(f"{side}_answer")[rows] for side in ("base", "source")])
        chosen = np.flatnonzero(label_BN[:, 0] != UNKNOWN)
        if len(chosen) > n_prompts:
            rng = stream_rng(task=self._science, hypothesis=hypothesis, split="gate", n=n_prompts)
            chosen = np.sort(rng.sample(chosen.tolist(), n_prompts))
        sides = zip((block.base, block.source), _sides(chosen, len(rows)), strict=True)
        prompts = layout.prompts(EncodedPrompts.joined([encoded.take(rows[part]) for encoded, part in sides]))
        first, rest = parted({"label": trimmed(label_BN[chosen])})
        return PromptSet(prompts=prompts, label_B=first["label"], rest_BN=rest.get("label"))

    def gate_group(self, hypothesis: str) -> str:
        """Each hypothesis has prompts of its own."""
        return hypothesis

    def example(self, hypothesis: str, number: int) -> Example:
        """The base of that row of the hypothesis, counted from 0, around the end."""
        block = self._table.blocks[hypothesis]
        row = number % len(block)
        encoded = block.base.take(np.array([row]))
        labels = np.unique(block.answers("label"), axis=0)[:_N_SHOWN]
        return Example(
            text=self._tokenizer.text(encoded.rows.row(0).tolist()),
            prompts=self.layout(hypothesis).prompts(encoded),
            answer=self._answer(block.answers("base_answer")[row]),
            answers=tuple(map(self._answer, labels)),
        )

    def _answer(self, answer_N: Ids) -> str:
        """The answer's text; empty where it is not known."""
        return "".join(self._tokenizer.piece(token) for token in answer_N.tolist() if token != UNKNOWN)


def _parts(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _sides(chosen: NDArray[np.int64], n_rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of the chosen prompts are bases, and which sources."""
    return chosen[chosen < n_rows], chosen[chosen >= n_rows] - n_rows


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
