"""The pairs of a file in a model's tokens, one block for each hypothesis: made once in bulk, saved as one Parquet file.

A file of the sweep's folder, `data/KEY.parquet`: a row group for each hypothesis, and their names, variables and
positions in the metadata. The key says all that it depends on: the file's digest, the settings and the tokenizer.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from workers.data.answers import UNKNOWN, Ids, n_tokens, stacked
from workers.data.layout import EncodedPrompts
from workers.data.pair_file.settings import SPLITS
from workers.data.pairs import with_rest
from workers.data.token_ids import TokenRows
from workers.data.values import value_ids
from workers.files.folder import replace_file
from workers.tasks.base import TaskError

TABLE_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBlock:
    """B pairs of one hypothesis. `split_B` indexes `SPLITS`; `row_B` is the pair's number in the file, from 0; `rest`
    has the further tokens of answers of several, as in `workers.data.pairs.PairSet`, and so does `value_id_B`."""

    hypothesis: str
    variables: tuple[str, ...]
    base: EncodedPrompts
    source: EncodedPrompts
    label_B: NDArray[np.int64]
    base_answer_B: NDArray[np.int64]
    source_answer_B: NDArray[np.int64]
    variable_B: NDArray[np.int64]
    value_B: NDArray[np.float64]
    value_id_B: NDArray[np.int64]
    split_B: NDArray[np.int64]
    row_B: NDArray[np.int64]
    rest: Mapping[str, Ids] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row_B)

    def answers(self, name: str) -> Ids:
        """answer_BN, all tokens of `label`, `base_answer` or `source_answer`."""
        return with_rest(getattr(self, f"{name}_B"), self.rest.get(name))

    def rows_of(self, split: str) -> NDArray[np.int64]:
        """The indices of the split's pairs, in the file's order."""
        return np.flatnonzero(self.split_B == SPLITS.index(split))

    def to_arrow(self, schema: pa.Schema) -> pa.Table:
        """A row a pair, with the columns of `schema`; the places of a prompt's names as a list, `last` left out."""
        columns: dict[str, pa.Array] = {name: pa.array(getattr(self, name)) for name in (*_NUMBERS, "value_id_B")}
        for side in ("base", "source"):
            encoded: EncodedPrompts = getattr(self, side)
            columns[side] = _lists(encoded.rows)
            places = [encoded.named[name].astype(np.int32) for name in self.positions]
            columns[f"{side}_places"] = _lists(_rows_of(np.stack(places, axis=1) if places else None, len(self)))
        columns |= {f"{name}_rest": _lists(_without_filling(self.answers(name)[:, 1:])) for name in ANSWERS}
        return pa.table(columns).select(schema.names).cast(schema)

    @property
    def positions(self) -> tuple[str, ...]:
        """The names of the positions, `last` left out."""
        return tuple(self.base.named)[:-1]

    def to_json(self) -> dict[str, Any]:
        """What the metadata says of the block."""
        return {"hypothesis": self.hypothesis, "variables": self.variables, "positions": self.positions}


_NUMBERS: Final = ("label_B", "base_answer_B", "source_answer_B", "variable_B", "value_B", "split_B", "row_B")
_IDS: Final = pa.list_(pa.int32())
_SCHEMA: Final = pa.schema(
    [(name, pa.float64() if name == "value_B" else pa.int64()) for name in _NUMBERS]
    + [(name, _IDS) for name in ("base", "base_places", "source", "source_places")]
)
ANSWERS: Final = ("label", "base_answer", "source_answer")
_SEVERAL: Final = 2  # the version of a table with answers of several tokens, whose schema has these columns more
_SEVERAL_SCHEMA: Final = pa.schema([*_SCHEMA, *(pa.field(f"{name}_rest", _IDS) for name in ANSWERS)])
_NAMED: Final = 3  # likewise of one in which a variable has a value that is a text
_NAMED_SCHEMA: Final = _SEVERAL_SCHEMA.append(pa.field("value_id_B", pa.int64()))


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTable:
    """The pairs of a file by hypothesis."""

    blocks: Mapping[str, PairBlock]

    def save(self, path: Path) -> None:
        """Write the table to `path`. Raises: OSError."""
        blocks = list(self.blocks.values())
        version, schema = TABLE_VERSION, _SCHEMA
        if any(block.rest for block in blocks):
            version, schema = _SEVERAL, _SEVERAL_SCHEMA
        if any((block.value_id_B != value_ids(block.value_B)).any() for block in blocks):
            version, schema = _NAMED, _NAMED_SCHEMA
        notes = {"table_version": str(version), "hypotheses": json.dumps([block.to_json() for block in blocks])}
        buffer = io.BytesIO()
        options = {"compression": "zstd", "write_page_checksum": True}
        with pq.ParquetWriter(buffer, schema.with_metadata(notes), **options) as writer:
            for block in blocks:
                writer.write_table(block.to_arrow(schema), row_group_size=len(block))
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> PairTable:
        """The table that `save` wrote. Raises: TaskError naming the file."""
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                notes = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
                if notes.get("table_version") not in [str(one) for one in (TABLE_VERSION, _SEVERAL, _NAMED)]:
                    found = notes.get("table_version")
                    raise TaskError(f"{path}: version {found!r} of a table of pairs; expected {_NAMED} or less")
                found = json.loads(notes["hypotheses"])
                blocks = [_block(one, file.read_row_group(index)) for index, one in enumerate(found)]
        except FileNotFoundError:
            right = "submit the spec again, with its file, to write it anew"
            raise TaskError(f"{path}: the sweep's table of pairs is missing; {right}") from None
        except TaskError:
            raise
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            right = "remove it, and submit the spec again"
            raise TaskError(f"{path}: the sweep's table of pairs is not readable ({error}); {right}") from error
        return cls(blocks={block.hypothesis: block for block in blocks})


def _block(notes: Mapping[str, Any], table: pa.Table) -> PairBlock:
    numbers: dict[str, Any] = {name: table[name].combine_chunks().to_numpy() for name in _NUMBERS}
    has_ids = "value_id_B" in table.column_names
    value_id_B = table["value_id_B"].combine_chunks().to_numpy() if has_ids else value_ids(numbers["value_B"])
    sides = {}
    for side in ("base", "source"):
        places = _token_rows(table[f"{side}_places"]).ids.reshape(table.num_rows, -1).astype(np.int64)
        named = {name: places[:, index] for index, name in enumerate(notes["positions"])}
        sides[side] = EncodedPrompts.of(_token_rows(table[side]), named)
    return PairBlock(
        hypothesis=notes["hypothesis"],
        variables=tuple(notes["variables"]),
        base=sides["base"],
        source=sides["source"],
        rest=_rest(table),
        value_id_B=value_id_B,
        **numbers,
    )


def _rest(table: pa.Table) -> dict[str, Ids]:
    """The further tokens of answers of several, by name; those of names that have none are left out."""
    found = {}
    for name in ANSWERS:
        if f"{name}_rest" in table.column_names:
            rows = _token_rows(table[f"{name}_rest"])
            if len(rows.ids):
                found[name] = rows.padded(UNKNOWN)
    return found


def _without_filling(answer_BN: Ids) -> TokenRows:
    start_B = np.concatenate([np.zeros(1, dtype=np.int64), n_tokens(answer_BN).cumsum()])
    return TokenRows(ids=answer_BN[answer_BN != UNKNOWN].astype(np.int32), start_B=start_B)


def _token_rows(column: pa.ChunkedArray) -> TokenRows:
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    start_B = array.offsets.to_numpy().astype(np.int64)
    return TokenRows(ids=array.flatten().to_numpy(), start_B=start_B - start_B[0])


def _lists(rows: TokenRows) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(rows.start_B.astype(np.int32)), pa.array(rows.ids))


def _rows_of(places_BN: NDArray[np.int32] | None, n_rows: int) -> TokenRows:
    if places_BN is None:
        return TokenRows(ids=np.zeros(0, dtype=np.int32), start_B=np.zeros(n_rows + 1, dtype=np.int64))
    return TokenRows(ids=places_BN.ravel(), start_B=np.arange(n_rows + 1, dtype=np.int64) * places_BN.shape[1])


def joined(parts: Sequence[PairBlock]) -> PairBlock:
    """The blocks of one hypothesis as one."""
    numbers: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _NUMBERS}
    names = {name for part in parts for name in part.rest}
    return PairBlock(
        hypothesis=parts[0].hypothesis,
        rest={name: stacked([part.answers(name) for part in parts])[:, 1:] for name in sorted(names)},
        variables=max((part.variables for part in parts), key=len),
        base=EncodedPrompts.joined([part.base for part in parts]),
        source=EncodedPrompts.joined([part.source for part in parts]),
        value_id_B=np.concatenate([part.value_id_B for part in parts]),
        **numbers,
    )
