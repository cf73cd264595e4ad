"""The plan of a sweep: which cells are to run, in which jobs, for how long, and what the reference would take."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.backends.submissions import read_job
from orchestrator.grid.expand import Grid, Strand, wanted_settings
from orchestrator.plan.calibration import calibration
from orchestrator.plan.costs import DEVICES, Calibration, CostModel
from orchestrator.plan.machines import Machines
from orchestrator.plan.memory import Memory, memory_of
from orchestrator.plan.packing import Load, Part, PlannedJob, makespan_s, pack_models
from orchestrator.spec.schema import SweepSpec
from orchestrator.status.cell_state import CellState
from orchestrator.status.states import JobStatus, SweepStatus
from orchestrator.wording import counted
from workers.files.checkpoints import checkpoints, cohort_name
from workers.files.folder import SweepFolder
from workers.files.job import Cohort, JobCell, RunOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What some jobs take together."""

    n_jobs: int
    job_h: float  # the mean job
    gpu_hours: float
    makespan_h: float

    @classmethod
    def of(cls, jobs: Sequence[PlannedJob], *, n_gpus: int, gpus_per_job: int) -> Totals:
        """The totals of `jobs` on a number of GPUs."""
        side_by_side, hours = max(1, n_gpus // gpus_per_job), sum(job.predicted_s for job in jobs) / 3600
        return cls(
            n_jobs=len(jobs),
            job_h=hours / max(len(jobs), 1),
            gpu_hours=gpus_per_job * hours,
            makespan_h=makespan_s(jobs, side_by_side) / 3600 if jobs else 0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What running a sweep now would mean."""

    sweep: str
    n_cells: int
    n_done: int
    n_held: int  # in jobs that wait or run
    n_skipped: int
    n_inapplicable: int  # their method has no meaning for them: nothing to run, and no cost
    n_left_out: int  # by coarse to fine, as far as the results go
    n_to_run: int
    machines: Machines
    engine: str
    models: tuple[str, ...]
    calibrations: Mapping[str, Calibration]  # by model; where there is none, the table's throughput counts
    jobs: tuple[PlannedJob, ...]
    totals: Totals
    memory: Memory | None
    reference: Totals  # the same cells with everything recomputed for each, as the paper did
    notes: tuple[str, ...] = ()  # on the model, the data, and cells with nothing to run

    @property
    def calibration(self) -> Calibration | None:
        """That of the sweep's one model; None where nothing is measured, and where there are several."""
        return next(iter(self.calibrations.values()), None) if len(self.models) == 1 else None

    def __repr__(self) -> str:
        return f"<plan of {self.sweep}: {', '.join(f'{name} {value}' for name, value in self._figures.items())}>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in self._figures.items())
        return f"<b>{html.escape(self.sweep)}</b><table>{rows}</table>"

    @property
    def _figures(self) -> dict[str, str]:
        hours = "worker-hours" if self.machines.kind == "cpu" else "GPU-hours"
        return {
            "cells": f"{self.n_cells:,}",
            "to run": f"{self.n_to_run:,}",
            "jobs": f"{self.totals.n_jobs:,}",
            hours: f"{self.totals.gpu_hours:.2f}",
            "machines": f"{self.machines.n_gpus} x {self.machines.kind}",
        }


class Planner:
    """Packs cells of one sweep for some machines."""

    def __init__(self, spec: SweepSpec, folder: SweepFolder, grid: Grid, machines: Machines) -> None:
        self.spec, self.folder, self.grid, self.machines = spec, folder, grid, machines
        first = {strand.model: strand.stream for strand in reversed(grid.strands)}
        found = {name: calibration(folder, stream, machines.kind) for name, stream in first.items()}
        self.calibrations = {name: one for name, one in found.items() if one is not None}
        self.costs = self._cost_models()

    def plan(self, status: SweepStatus) -> Plan:
        """What running the cells that are missing or failed would mean."""
        counts = status.counts
        keys = {key for key, cell in status.cells.items() if cell.state.is_open}
        jobs = self.jobs(keys, over(status))
        return Plan(
            sweep=self.spec.name,
            n_cells=len(status.cells),
            n_done=counts[CellState.DONE],
            n_held=sum(count for state, count in counts.items() if state.is_held),
            n_skipped=counts[CellState.SKIPPED],
            n_inapplicable=counts[CellState.INAPPLICABLE],
            n_left_out=counts[CellState.LEFT_OUT],
            n_to_run=len(keys),
            machines=self.machines,
            engine=self.spec.engine,
            calibrations=self.calibrations,
            models=tuple(model.name for model in self.grid.models),
            jobs=tuple(jobs),
            totals=self.totals(jobs),
            memory=memory_of(self.grid, jobs),
            reference=self.reference(keys),
            notes=(*self.grid.notes, *_inapplicable(status)),
        )

    def jobs(self, keys: Collection[str], past: Iterable[JobStatus] = (), *, spread: bool = True) -> list[PlannedJob]:
        """The cells of `keys` in jobs; what a past job of them left a checkpoint of stays together."""
        kept = list(_with_checkpoints(self.folder, self.grid, self.costs, keys, past))
        free = set(keys) - {cell.key for part in kept for cell in part.cells}
        return self._packed(self._strands(free), self.costs, kept, n_gpus=self._side_by_side if spread else 1)

    def totals(self, jobs: Sequence[PlannedJob]) -> Totals:
        """What `jobs` take on the machines."""
        return Totals.of(jobs, n_gpus=self.machines.n_gpus, gpus_per_job=self.spec.jobs.gpus)

    def reference(self, keys: Collection[str]) -> Totals:
        """What the same cells take with the reference engine; measured rows of another engine say nothing of it."""
        costs = self._cost_models(engine="reference")
        return self.totals(self._packed(self._strands(keys), costs, n_gpus=self._side_by_side))

    def _packed(
        self, strands: Sequence[Strand], costs: Mapping[str, CostModel], kept: Sequence[Part] = (), *, n_gpus: int
    ) -> list[PlannedJob]:
        """The jobs of each model's strands and kept parts."""
        loads = [
            Load(
                costs=costs[name],
                strands=[strand for strand in strands if strand.model == name],
                kept=[part for part in kept if part.strand.model == name],
            )
            for name in costs
        ]
        loads = [load for load in loads if load.strands or load.kept]
        return pack_models(loads, target_s=self._target_s, n_gpus=n_gpus)

    def _strands(self, keys: Collection[str]) -> list[Strand]:
        """The strands of these cells, those whose alignments are saved apart from those to be trained."""
        saved = {path.stem for path in self.folder.alignments.glob("*/*.safetensors")}
        trained = {key for key in keys if key in saved}
        evaluated = [replace(strand, is_trained=True) for strand in restricted(self.grid, trained)]
        return restricted(self.grid, set(keys) - trained) + evaluated

    def _cost_models(self, engine: str = "") -> dict[str, CostModel]:
        """What cells cost, by model."""
        own = not engine or engine == self.spec.engine
        return {
            model.name: CostModel(
                model.info,
                DEVICES[self.machines.kind],
                dtype=self.spec.model.dtype,
                engine=engine,
                n_settings=n_settings(self.spec, self.grid),
                calibration=self.calibrations.get(model.name) if own else None,
            )
            for model in self.grid.models
        }

    @property
    def _target_s(self) -> float:
        return self.spec.jobs.target_h * 3600

    @property
    def _side_by_side(self) -> int:
        return max(1, self.machines.n_gpus // self.spec.jobs.gpus)


def _inapplicable(status: SweepStatus) -> list[str]:
    """How many cells have nothing to run, by reason."""
    reasons = Counter(cell.reason for cell in status.cells.values() if cell.state is CellState.INAPPLICABLE)
    return [f"{counted(n_cells, 'cell')} inapplicable: {reason}" for reason, n_cells in reasons.items()]


def n_settings(spec: SweepSpec, grid: Grid) -> dict[str, int]:
    """By experiment: on how many settings its cells are evaluated beside the main one."""
    settings = spec.evaluation_settings()
    return {strand.experiment: len(wanted_settings(settings, strand.experiment)) - 1 for strand in grid.strands}


def over(status: SweepStatus) -> list[JobStatus]:
    """The jobs that will not finish any more cells."""
    return [job for job in status.jobs if not job.holds_cells]


def restricted(grid: Grid, keys: Collection[str]) -> list[Strand]:
    """The strands of `grid` with the cells of `keys` alone; those without any are left out."""
    strands = []
    for strand in grid.strands:
        cells = tuple(cell for cell in strand.cells if cell.key in keys)
        if cells:
            strands.append(strand if len(cells) == len(strand.cells) else replace(strand, cells=cells))
    return strands


def to_cohorts(job: PlannedJob) -> tuple[Cohort, ...]:
    """The job's parts as a job file names them."""
    return tuple(
        Cohort(experiment=part.strand.experiment, stream=part.strand.stream, cells=part.cells) for part in job.parts
    )


def halved(options: RunOptions, job: PlannedJob, times: int) -> RunOptions:
    """The options for cells whose memory ran out `times` times: half the micro-batch and the cohort each time."""
    if times == 0:
        return options
    batch = max(int(part.strand.stream.method.get("batch_size", 1)) for part in job.parts)
    largest = max(len(part.cells) for part in job.parts)
    return replace(
        options,
        micro_batch=max(1, (options.micro_batch or batch) >> times),
        max_cohort=max(1, (options.max_cohort or largest) >> times),
    )


def _with_checkpoints(
    folder: SweepFolder, grid: Grid, costs: Mapping[str, CostModel], keys: Collection[str], past: Iterable[JobStatus]
) -> Iterator[Part]:
    """Groups of cells that a past job was training: a checkpoint fits just the group that it was written for.

    A job may have cut its cohorts for lack of memory; then its checkpoints fit none of them as they are, and all of
    its unfinished cohorts stay whole, so that the next job cuts them alike.
    """
    stems = _checkpoints_by_job(folder)
    priced = [costs[strand.model].of(strand) for strand in grid.strands] if stems else []
    owners = {cell.key: one for one in priced for cell in one.strand.cells}
    taken: set[str] = set()
    for job in sorted(past, key=lambda job: -job.submission):
        if job.name not in stems:
            continue
        groups = [_unfinished(cohort, keys, taken) for cohort in read_job(folder, job.name).cohorts]
        groups = [group for group in groups if group.cells and group.cells[0].key in owners]
        fitting = [group for group in groups if cohort_name(group.key()) in stems[job.name]] or groups
        for group in fitting:
            taken.update(cell.key for cell in group.cells)
            yield Part.of(owners[group.cells[0].key], group.cells, whole=True)


def _unfinished(cohort: Cohort, keys: Collection[str], taken: Collection[str]) -> Cohort:
    def is_free(cell: JobCell) -> bool:
        return cell.key in keys and cell.key not in taken

    return replace(cohort, cells=tuple(cell for cell in cohort.cells if is_free(cell)))


def _checkpoints_by_job(folder: SweepFolder) -> Mapping[str, set[str]]:
    """The cohorts (`cohort_name`) that each job has left a checkpoint of."""
    found: dict[str, set[str]] = {}
    for name in checkpoints(folder.checkpoints):
        found.setdefault(name.job, set()).add(name.cohort)
    return found
