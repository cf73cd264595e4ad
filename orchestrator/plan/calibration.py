"""How long cells really took, against the table of `costs`: measured once a sweep, used by the next plan.

`store/costs.json` holds one entry a model, dtype, engine and kind of GPU; sweeps that lie side by side read each
other's.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from orchestrator.grid.expand import Grid
from orchestrator.plan.costs import COSTS_VERSION, DEVICES, Calibration, CostModel, StrandCosts, measured_as
from orchestrator.plan.machines import device_kind
from orchestrator.status.states import JobStatus
from workers.files.folder import SweepFolder, replace_file
from workers.files.job import MAIN_SETTING, JobCell, Stream
from workers.files.progress import AttemptState

_MIN_START_S: Final = 0.5
_MIN_WORK_S: Final = 20.0  # per job: in a shorter one the slow first steps weigh too much


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSite:
    """What the cells at one site teach. Those that were trained side by side with cells elsewhere count as slow or
    fast as these."""

    work: float
    n_cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the finished jobs of one model, dtype, engine and kind of device teach."""

    version: int  # the version of the table that `work` is a ratio to
    model: str  # its fingerprint
    dtype: str
    engine: str
    kind: str
    work: float
    start_s: float
    n_cells: int
    sites: Mapping[str, MeasuredSite] = field(default_factory=dict)


_MEASURED: Final = TypeAdapter(list[Measured])


def write_costs(
    folder: SweepFolder, grid: Grid, table: pa.Table, jobs: Iterable[JobStatus], *, n_settings: Mapping[str, int]
) -> None:
    """Write what the finished jobs of this sweep teach; nothing where they teach nothing. Raises: OSError."""
    entries = list(_entries(grid, table, jobs, n_settings))
    if entries:
        folder.store.mkdir(parents=True, exist_ok=True)
        replace_file(folder.store / "costs.json", _MEASURED.dump_json(entries, indent=1).decode() + "\n")


def calibration(folder: SweepFolder, stream: Stream, kind: str) -> Calibration | None:
    """The best measured entry for the stream's model, dtype and engine on `kind`: this sweep's, or a neighbour's.

    Each site's is that of the sweep that measured most cells there, this one's first.
    """
    wanted = (stream.model["fingerprint"], stream.model["dtype"], stream.engine, kind)
    own = [folder.store / "costs.json"]
    neighbours = sorted(folder.root.parent.glob("*/store/costs.json")) if folder.root.parent.is_dir() else []
    best: Measured | None = None
    sites: dict[str, float] = {}
    for paths in (own, neighbours):
        entries = [entry for path in paths for entry in _read(path)]
        fitting = [one for one in entries if (one.model, one.dtype, one.engine, one.kind) == wanted]
        best = best or max(fitting, key=lambda entry: entry.n_cells, default=None)
        if paths is own and best and not best.sites:  # an older version's: its `work` is that of all its sites
            break
        for site in {site for entry in fitting for site in entry.sites} - set(sites):
            measured = [entry.sites[site] for entry in fitting if site in entry.sites]
            sites[site] = max(measured, key=lambda one: one.n_cells).work
    if best is None:
        return None
    return Calibration(work=best.work, start_s=best.start_s, n_cells=best.n_cells, sites=sites)


def _read(path: Path) -> list[Measured]:
    try:
        return [one for one in _MEASURED.validate_json(path.read_bytes(), strict=True) if one.version == COSTS_VERSION]
    except (OSError, ValidationError):
        return []  # a neighbour's file is a hint, not a need


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cohort:
    """What a finished job says of the cells of one strand: their seconds, and the table's."""

    spent_s: float
    predicted_s: float
    at: Mapping[str, tuple[float, int]]  # by site: the table's seconds for its cells alone, and how many they are


def _entries(
    grid: Grid, table: pa.Table, jobs: Iterable[JobStatus], n_settings: Mapping[str, int]
) -> Iterator[Measured]:
    """One entry a model, dtype, engine and kind, from jobs that ran through in one attempt."""
    strand_of = {cell.key: (index, cell) for index, strand in enumerate(grid.strands) for cell in strand.cells}
    rows = _rows_by_job(table)
    measured: defaultdict[tuple[str, str, str, str], list[_Cohort]] = defaultdict(list)
    starts_s: defaultdict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    for job in jobs:
        progress = job.progress
        if len(job.attempts) != 1 or not progress or progress.state is not AttemptState.FINISHED:
            continue
        timed = {key: seconds for key, seconds in rows.get((job.name, 1), []) if key in strand_of}
        kind, spent_s = device_kind(progress.gpu_name), sum(timed.values())
        if len(timed) != job.n_cells or kind not in DEVICES or spent_s < _MIN_WORK_S:
            continue
        cohorts: defaultdict[int, list[JobCell]] = defaultdict(list)  # by their strand's index
        for index, cell in map(strand_of.__getitem__, timed):
            cohorts[index].append(cell)
        strand = grid.strands[next(iter(cohorts))]
        first, model = strand.stream, grid.model_of(strand).info
        costs = CostModel(model, DEVICES[kind], dtype=str(first.model["dtype"]), n_settings=n_settings)
        group = (model.fingerprint, str(first.model["dtype"]), first.engine, kind)
        measured[group] += [_cohort(costs.of(grid.strands[index]), cells, timed) for index, cells in cohorts.items()]
        starts_s[group].append(max(progress.ended - progress.started - spent_s, _MIN_START_S))
    for (fingerprint, dtype, engine, kind), found in measured.items():
        yield Measured(
            version=COSTS_VERSION,
            model=fingerprint,
            dtype=dtype,
            engine=engine,
            kind=kind,
            work=sum(one.spent_s for one in found) / sum(one.predicted_s for one in found),
            start_s=statistics.median(starts_s[fingerprint, dtype, engine, kind]),
            n_cells=sum(count for one in found for _, count in one.at.values()),
            sites=_by_site(found),
        )


def _cohort(costs: StrandCosts, cells: Sequence[JobCell], timed: Mapping[str, float]) -> _Cohort:
    at: defaultdict[str, list[JobCell]] = defaultdict(list)
    for cell in cells:
        at[measured_as(cell.place)].append(cell)
    return _Cohort(
        spent_s=sum(timed[cell.key] for cell in cells),
        predicted_s=costs.cohort_s(cells),
        at={site: (costs.cohort_s(some), len(some)) for site, some in at.items()},
    )


def _by_site(cohorts: Sequence[_Cohort]) -> dict[str, MeasuredSite]:
    """Each site's mean of its cohorts, weighted by the table's seconds for its cells in them."""
    seconds: defaultdict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for one in cohorts:
        for site, (predicted_s, n_cells) in one.at.items():
            seconds[site].append((predicted_s * one.spent_s / one.predicted_s, predicted_s, n_cells))
    return {
        site: MeasuredSite(work=sum(spent) / sum(predicted), n_cells=sum(n_cells))
        for site, (spent, predicted, n_cells) in ((site, zip(*some, strict=True)) for site, some in seconds.items())
    }


def _rows_by_job(table: pa.Table) -> Mapping[tuple[str, int], list[tuple[str, float]]]:
    """Cell keys and seconds of the measured main rows of each attempt."""
    names = ("job", "attempt", "cell_key", "gpu_seconds", "setting", "status")
    found: defaultdict[tuple[str, int], list[tuple[str, float]]] = defaultdict(list)
    for job, attempt, key, seconds, setting, status in zip(*(table[name].to_pylist() for name in names), strict=True):
        if setting == MAIN_SETTING and status == "done" and seconds:
            found[(job, attempt)].append((key, seconds))
    return found
