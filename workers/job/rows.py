"""The rows of a shard: one a cell and setting, in the schema of `workers.files.shard`."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import pyarrow as pa

from workers.data.hub import row_name
from workers.files.cell_identity import cell_identity
from workers.files.code_digest import code_digest
from workers.files.folder import replace_file
from workers.files.job import Cohort, Job, JobCell, canonical_json
from workers.files.metrics import IIA
from workers.files.progress import Progress
from workers.files.shard import CLASS_COLUMNS, SHARD_SCHEMA, shard_bytes
from workers.job.evaluate import Counts
from workers.methods.alignment import CellFacts
from workers.methods.settings import method_label


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """How well the model itself does the task: right answers among fresh prompts. `n_all` is how many prompts there
    are: a model that is far below the gate is not asked all of them."""

    n_correct: int
    n_total: int
    n_all: int

    @property
    def is_whole(self) -> bool:
        """Whether all prompts were asked."""
        return self.n_total == self.n_all

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; None where no prompt's right answer is known."""
        return self.n_correct / self.n_total if self.n_total else None


class RowWriter:
    """Collects the rows of one attempt and replaces its shard whole after each cohort."""

    def __init__(self, job: Job, attempt: int, progress: Progress) -> None:
        folder = job.sweep_folder
        self._path = folder.shards / f"{folder.attempt_name(job.job, attempt)}.parquet"
        self._job = job
        self._rows: list[dict[str, Any]] = []
        self._run = {
            "sweep": job.sweep,
            "model": row_name(job.model_path, job.cohorts[0].stream.untrained_seed),
            "model_revision": job.model_revision,
            "gpu_name": progress.gpu_name,
            "gpu_uuid": progress.gpu_uuid,
            "host": progress.host,
            "backend": progress.backend,
            "job": job.job,
            "attempt": attempt,
            "scheduler_job_id": progress.scheduler_job_id,
            "git_sha": job.provenance.get("git_sha"),
            "versions": canonical_json(versions() | {"code": code_digest()}),
        }

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take `rows` in and write the shard. Raises: OSError."""
        self._rows += [{**self._run, **row} for row in rows]
        self.write()

    def write(self) -> None:
        """Replace the shard by all rows so far. Raises: OSError."""
        table = pa.Table.from_pylist(self._rows, schema=SHARD_SCHEMA)
        provenance = json.dumps(dict(self._job.provenance), sort_keys=True)
        notes = {"job": self._job.job, "sweep": self._job.sweep, "provenance": provenance}
        replace_file(self._path, shard_bytes(table, notes))


def cell_row(
    cohort: Cohort, cell: JobCell, setting: str, variables: Sequence[str], gate: GateResult | None
) -> dict[str, Any]:
    """What every row of a cell has, whatever became of it."""
    row = cell_identity(cohort, cell, setting, variables, method=method_label(cohort.stream.method))
    if gate is not None:
        row |= {"task_n_correct": gate.n_correct, "task_n_total": gate.n_total, "task_accuracy": gate.accuracy}
    return row


def measured(counts: Counts, facts: CellFacts, gate: GateResult, metric: str) -> dict[str, Any]:
    """The measures of a finished cell. What is no IIA has a null `iia`, and so is `iia_normalized` then, as it is where
    the model is no better than the dummy, or its task accuracy is not known."""
    accuracy, dummy_accuracy = _share(counts.n_correct, counts), _share(counts.n_dummy, counts)
    is_iia = metric == IIA
    normalized = None
    if is_iia and accuracy is not None and dummy_accuracy is not None and gate.accuracy is not None:
        span = gate.accuracy - dummy_accuracy
        normalized = (accuracy - dummy_accuracy) / span if span > 0 else None
    return {
        "metric": metric,
        "n_correct": counts.n_correct,
        "n_total": counts.n_total,
        "iia": accuracy if is_iia else None,
        "n_correct_none": counts.n_correct_none,
        "n_correct_full": counts.n_correct_full,
        "n_correct_random": counts.n_correct_random,
        "n_only_cell": counts.n_only_cell,
        "n_only_none": counts.n_only_none,
        "n_flips": counts.n_flips,
        "dummy_accuracy": dummy_accuracy,
        "iia_normalized": normalized,
        "subspace_dim": facts.subspace_dim,
        "boundary": list(facts.boundary),
        "loss": facts.loss,
        "steps": facts.steps,
        **{name: value if math.isfinite(value) else None for name, value in counts.sums.items()},
        **dict(zip(CLASS_COLUMNS, map(list, zip(*counts.classes, strict=True)), strict=False)),
    }


def _share(count: int | None, counts: Counts) -> float | None:
    return None if count is None or counts.n_total == 0 else count / counts.n_total


def utc(unix_s: float) -> datetime:
    """A moment given in Unix seconds."""
    return datetime.fromtimestamp(unix_s, UTC)


def versions() -> dict[str, str]:
    """The versions that a result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("causalsweep", "torch", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found
