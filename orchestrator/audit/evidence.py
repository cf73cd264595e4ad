"""What a sweep's files say, each read on its own: a damaged one is named, and the others are read all the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from orchestrator.backends.submissions import SUBMISSION_FORMAT, Submission
from orchestrator.grid.expand import Grid, Strand
from workers.files.folder import SweepFolder, visible_files
from workers.files.gather import SHARD_NAME, chosen_rows
from workers.files.job import Cell, Job, JobCell
from workers.files.shard import SHARD_SCHEMA, TornShard, read_shard
from workers.files.versions import NewerFile

REUSED: Final = "reused-"  # how a shard with another sweep's rows begins
PLANNED: Final = "plan"  # the job that rows of inapplicable cells name: none ran


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of one shard. `counts`: it is the one that the store keeps for its cell and setting."""

    shard: str  # the file's name
    values: Mapping[str, Any]
    counts: bool

    @property
    def source(self) -> str:
        """The shard's file as people find it in the sweep's folder."""
        return f"shards/{self.shard}"


class Evidence:
    """The files of a sweep as they were when they were first asked for."""

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder
        self.torn: list[TornShard] = []
        self.unreadable: dict[str, str] = {}  # by the file's name in the sweep's folder: what is wrong with it

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """Every row of every shard, by cell key. Raises: NewerFile."""
        tables = []
        for path in visible_files(self.folder.shards, ".parquet"):
            if SHARD_NAME.fullmatch(path.name):
                shard = read_shard(path)
                if isinstance(shard, TornShard):
                    self.torn.append(shard)
                else:
                    tables.append(shard.append_column("shard", pa.array([path.name] * shard.num_rows, pa.string())))
        schema = pa.schema([*SHARD_SCHEMA, pa.field("shard", pa.string())])
        table = pa.concat_tables([schema.empty_table(), *tables])
        counting = set(chosen_rows(table).to_pylist())
        found: dict[str, list[Row]] = {}
        for index, values in enumerate(table.to_pylist()):
            row = Row(shard=values.pop("shard"), values=values, counts=index in counting)
            found.setdefault(values["cell_key"], []).append(row)
        return found

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """Every job file that can be read, by its name. Raises: NewerFile."""
        return {path.stem: job for path in visible_files(self.folder.jobs, ".json") if (job := self._job(path))}

    def _job(self, path: Path) -> Job | None:
        try:
            job = Job.load(path)
            job.check_keys()
        except NewerFile:
            raise
        except (OSError, ValueError) as error:
            self._set_aside(path, error)
            return None
        if job.job != path.stem:
            self._set_aside(path, ValueError(f"key `job`: got {job.job!r}; expected {path.stem!r}"))
            return None
        return job

    @cached_property
    def submissions(self) -> list[Submission]:
        """Every submission whose record can be read, by number. Raises: NewerFile."""
        found = []
        for path in visible_files(self.folder.submissions, ".json"):
            if not (path.stem.startswith("r") and path.stem[1:].isdecimal()):
                continue
            try:
                found.append(SUBMISSION_FORMAT.read(path))
            except NewerFile:
                raise
            except (OSError, ValueError) as error:
                self._set_aside(path, error)
        return sorted(found, key=lambda one: one.number)

    @cached_property
    def withdrawn(self) -> frozenset[int]:
        """The numbers of submissions that were withdrawn."""
        names = (path.stem[1:] for path in visible_files(self.folder.submissions, ".withdrawn"))
        return frozenset(int(name) for name in names if name.isdecimal())

    @cached_property
    def jobs_of_cells(self) -> dict[str, list[str]]:
        """The jobs that have a cell, by its key, the first one first."""
        found: dict[str, list[str]] = {}
        for name, job in self.jobs.items():
            for cohort in job.cohorts:
                for cell in cohort.cells:
                    found.setdefault(cell.key, []).append(name)
        return found

    @cached_property
    def cells_of_jobs(self) -> dict[str, dict[str, Any]]:
        """The science of every cell of a job file, by its key."""
        return {
            cell.key: Cell(stream=cohort.stream, place=cell.place).science()
            for job in self.jobs.values()
            for cohort in job.cohorts
            for cell in cohort.cells
        }

    def _set_aside(self, path: Path, error: Exception) -> None:
        said = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        self.unreadable[str(path.relative_to(self.folder.root))] = said.removeprefix(f"{path}: ")


def planned_cells(grid: Grid) -> Iterator[tuple[str, Strand, JobCell, dict[str, Any]]]:
    """Key, strand, cell and science of every planned cell."""
    for strand, cell in grid.cells():
        yield cell.key, strand, cell, Cell(stream=strand.stream, place=cell.place).science()
