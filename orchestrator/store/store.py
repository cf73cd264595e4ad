"""The rows of one sweep, as status and results ask for them (`workers.files.gather` gathers them from the shards)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import pyarrow as pa

from orchestrator.errors import StorageError
from workers.files.folder import SweepFolder
from workers.files.gather import Shards
from workers.files.shard import TornShard
from workers.files.versions import NewerFile

_STATE: Final = ("status", "reason", "job", "task_accuracy", "n_correct", "n_total")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RowState:
    """What the store says of one cell and setting."""

    status: str  # done | failed | skipped
    reason: str
    job: str
    task_accuracy: float | None
    n_correct: int | None
    n_total: int | None


class Store:
    """The results of one sweep. Rows of shards that were read once are kept while the object lives.

    Every method raises StorageError where a later version of causalsweep wrote one of the shards.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._shards = Shards(folder)

    @property
    def path(self) -> Path:
        """The gathered file: for pandas, Polars and DuckDB without this project's code."""
        return self._shards.path

    def index(self) -> dict[tuple[str, str], RowState]:
        """The state of each (cell key, setting) that has a row."""
        table = self._asked(self._shards.index)
        keys, settings = table["cell_key"].to_pylist(), table["setting"].to_pylist()
        states = zip(*(table[name].to_pylist() for name in _STATE), strict=True)
        return {
            (key, setting): RowState(status, reason or "", *rest)
            for key, setting, (status, reason, *rest) in zip(keys, settings, states, strict=True)
        }

    def torn(self) -> list[TornShard]:
        """The shards that cannot be read."""
        return self._asked(self._shards.torn)

    def table(self) -> pa.Table:
        """Every row, sorted by experiment, method, setting, seed, layer, position; also written to `path`, where the
        folder can be written."""
        return self._asked(self._shards.table)

    def gather(self) -> pa.Table:
        """What `table` returns; `path` holds the same. Raises: OSError (it cannot be written)."""
        return self._asked(self._shards.gather)

    @staticmethod
    def _asked(question: Callable[[], _T]) -> _T:
        try:
            return question()
        except NewerFile as error:
            raise StorageError(str(error)) from error
