"""What a job still has to do: which cells lack which rows, and which of them need no training for it.

A setting may be added to a sweep when its cells are long done. Their saved alignments are then evaluated on it, and
nothing is trained. The rows count whichever job of the sweep has written them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import pyarrow.compute as pc

from workers.files.gather import Shards
from workers.files.job import MAIN_SETTING, Cohort, Job, JobCell, Setting
from workers.job.saved import is_saved

_BATCH: Final = 64  # pairs of a forward pass of a method without batches
_ROW: Final = ("cell_key", "setting")  # what tells a row from every other


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Cells of a cohort that lack their rows on the same settings, and how many pairs a forward pass may take. With
    `is_trained`, what the cells learned is saved."""

    cohort: Cohort
    settings: tuple[Setting, ...]
    is_trained: bool
    micro_batch: int


def settings_of(job: Job, cohort: Cohort) -> Iterator[Setting]:
    """The settings that the cohort's cells are evaluated on, the one that they were trained for first."""
    yield Setting(name=MAIN_SETTING)
    for setting in job.settings:
        if not setting.experiments or cohort.experiment in setting.experiments:
            yield setting


def work_of(job: Job) -> list[Work]:
    """What is left of the job, in its order."""
    done = rows_done(job)
    work: list[Work] = []
    for cohort in job.cohorts:
        settings = {setting.name: setting for setting in settings_of(job, cohort)}
        groups: dict[tuple[str, ...], list[JobCell]] = {}
        for cell in cohort.cells:
            lacking = tuple(name for name in settings if (cell.key, name) not in done)
            groups.setdefault(lacking, []).append(cell)
        for lacking, cells in groups.items():
            if lacking:
                work += _split(job, cohort, tuple(settings[name] for name in lacking), cells)
    return work


def _split(job: Job, cohort: Cohort, settings: tuple[Setting, ...], cells: list[JobCell]) -> Iterator[Work]:
    """The cells to train, and those whose alignments are there.

    Cells that an attempt had in training stay together: their checkpoint is that of the whole group.
    """
    saved = {cell.key for cell in cells if is_saved(job.sweep_folder.alignments, cell.key)}
    in_training = any(setting.name == MAIN_SETTING for setting in settings)
    if in_training and len(saved) < len(cells):
        saved = set()
    for is_trained in (False, True):
        chosen = tuple(cell for cell in cells if (cell.key in saved) == is_trained)
        if chosen:
            yield Work(
                cohort=replace(cohort, cells=chosen),
                settings=settings,
                is_trained=is_trained,
                micro_batch=job.options.micro_batch or int(cohort.stream.method.get("batch_size", _BATCH)),
            )


def rows_done(job: Job) -> set[tuple[str, str]]:
    """(cell key, setting) of the rows that need not be written again: whatever an earlier attempt of this job found,
    and what other jobs measured. That a cell failed elsewhere, or was skipped, is what this job is to try anew.

    Torn shards do not count. Raises: NewerFile.
    """
    shards = Shards(job.sweep_folder)
    found = shards.index()
    measured = found.filter(pc.equal(found["status"], "done"))
    own = shards.index_of_job(job.job)
    keys = {cell.key for cohort in job.cohorts for cell in cohort.cells}
    rows = [pair for table in (measured, own) for pair in zip(*(table[n].to_pylist() for n in _ROW), strict=True)]
    return {(key, setting) for key, setting in rows if key in keys}
