"""How the cells of a job learned, and what they do on the first test pairs: rows of `workers.files.traces`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from workers.data.answers import UNKNOWN
from workers.data.pairs import PairSet
from workers.data.token_ids import Prompts
from workers.data.tokenizer import Tokenizer
from workers.files.folder import SweepFolder, replace_file
from workers.files.traces import trace_bytes
from workers.job.evaluate import Counts
from workers.methods.alignment import Column

log = logging.getLogger(__name__)


class TraceWriter:
    """Collects the traces of one attempt, and replaces its file whole after each cohort."""

    def __init__(self, folder: SweepFolder, attempt_name: str) -> None:
        self._path = folder.traces / f"{attempt_name}.parquet"
        self._traces: list[dict[str, Any]] = []

    def add(self, traces: Sequence[dict[str, Any]]) -> None:
        """Take `traces` in and write the file. No result depends on it: where it cannot be written, the log says so."""
        if not traces:
            return
        self._traces += traces
        try:
            self._path.parent.mkdir(exist_ok=True)
            replace_file(self._path, trace_bytes(self._traces))
        except OSError as error:
            log.warning("%s: cannot write: %s; the report lacks the curves of these cells", self._path, error.strerror)


def traces_of(
    columns: Sequence[Column],
    counts: Sequence[Sequence[Counts]],
    pairs: PairSet,
    *,
    variables: Sequence[str],
    tokenizer: Tokenizer,
) -> Iterator[dict[str, Any]]:
    """A row for each cell that has a curve, or that was evaluated by intervening."""
    examples: dict[str, Any] | None = None
    for column, column_counts in zip(columns, counts, strict=True):
        for index, (cell, facts, count) in enumerate(zip(column.cells, column.facts, column_counts, strict=True)):
            trace: dict[str, Any] = column.curves[index].columns() if column.curves else {}
            if count.said and not facts.failure:
                examples = examples or _examples(pairs.take(slice(len(count.said))), variables, tokenizer)
                said = {"before": count.said_none, "after": count.said}
                trace |= examples | {name: [_text(ids, tokenizer) for ids in answers] for name, answers in said.items()}
            if trace:
                yield {"cell_key": cell.key} | trace


def _examples(pairs: PairSet, variables: Sequence[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """The texts of the pairs, the same for all cells of a cohort."""
    label_BN = pairs.answers("label")
    assert label_BN is not None
    labels = [[token for token in ids if token != UNKNOWN] for ids in label_BN.tolist()]
    return {
        "base": _texts(pairs.base, tokenizer),
        "source": _texts(pairs.source, tokenizer),
        "variable": [variables[index] for index in pairs.variable_B.tolist()],
        "label": [_text(ids, tokenizer) for ids in labels],
    }


def _text(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of an answer; of one that is no text, such as the end of the text, the tokens' own names."""
    return tokenizer.text(ids) or "".join(map(tokenizer.piece, ids))


def _texts(prompts: Prompts, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.text(ids[:length].tolist()) for ids, length in zip(prompts.ids_BT, prompts.length_B, strict=True)]
