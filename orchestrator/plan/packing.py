"""Cells -> jobs of about the target length: a stream's cells together, longest first, no GPU of the cluster idle.

A strand is cut between positions, and between the cells of a position only where one position alone is longer than the
target: the engine runs all cells of a position in one call, and what a cell's numbers are, to the last bit, must not
depend on how many GPUs there are. A job that holds several strands' cells loads the model once.

1. Cut each strand into parts that fit a job of the given length; fill jobs with them, best fit, longest first.
2. While a GPU would stay idle, split the longest job that holds more than one position.
3. Do so for the target length and for the shorter ones that fill the cluster in whole rounds; take the plan with the
   shortest makespan, or with fewer jobs and nearly that.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from orchestrator.grid.expand import Strand
from orchestrator.plan.costs import CostModel, StrandCosts
from workers.files.job import JobCell
from workers.files.place import PlaceSet, span_label

_MARGIN: Final = 1.5  # the upper estimate divided by the expected time, with measured rates or without
_SLACK_S: Final = 600.0  # for a slow start: a cold file system, a busy node
_OVER: Final = 1.1  # a target is about so long: better a little over it than a part more
_NEARLY: Final = 1.05  # a makespan this close to the shortest is as good, with fewer jobs
_MAX_ROUNDS: Final = 4  # with more rounds than these, uneven last rounds no longer matter

_Column: TypeAlias = tuple[float, tuple[JobCell, ...]]  # seconds, and the cells of a position or of a piece of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Cells of one strand that one job trains side by side. A `whole` part has a checkpoint and is never cut.

    `costs` are those of the strand with all its cells, however few of them are in this part.
    """

    costs: StrandCosts
    cells: tuple[JobCell, ...]
    seconds: float
    whole: bool = False

    @classmethod
    def of(cls, costs: StrandCosts, cells: tuple[JobCell, ...], *, whole: bool = False) -> Part:
        """The part of these cells, its seconds as the costs say."""
        return cls(costs=costs, cells=cells, seconds=costs.cohort_s(cells), whole=whole)

    @property
    def strand(self) -> Strand:
        """What the cells share."""
        return self.costs.strand


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """Parts packed into one job, and what it takes: start-up and parts."""

    parts: tuple[Part, ...]
    predicted_s: float

    @property
    def model(self) -> str:
        """The name of the one model that the job loads."""
        return self.parts[0].strand.model

    @property
    def n_cells(self) -> int:
        """Cells in all parts."""
        return sum(len(part.cells) for part in self.parts)

    @property
    def upper_s(self) -> float:
        """The time to ask a scheduler for."""
        return _MARGIN * self.predicted_s + _SLACK_S

    @property
    def label(self) -> str:
        """For people: `left_boundary L0..15 p80..81 s42 (7 cells)`."""
        first = self.parts[0]
        where = span_label([cell.place for cell in first.cells])
        more = f" +{len(self.parts) - 1}" if len(self.parts) > 1 else ""
        n_cells = f"{self.n_cells} cell{'' if self.n_cells == 1 else 's'}"
        return f"{first.strand.experiment} {where} s{first.strand.stream.seed}{more} ({n_cells})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be run of one model: `strands`, and the `kept` parts as they are."""

    costs: CostModel
    strands: Sequence[Strand]
    kept: Sequence[Part] = ()

    @property
    def seconds(self) -> float:
        """What all cells take, with one start."""
        free = sum(self.costs.of(strand).cohort_s(strand.cells) for strand in self.strands)
        return self.costs.start_s + free + sum(part.seconds for part in self.kept)


def pack_models(loads: Sequence[Load], *, target_s: float, n_gpus: int) -> list[PlannedJob]:
    """The jobs of several models, longest first: each model has jobs of its own, on a share of the GPUs by its work."""
    shares = _shares([load.seconds for load in loads], n_gpus)
    jobs = [
        job
        for load, share in zip(loads, shares, strict=True)
        for job in pack(load.strands, load.costs, target_s=target_s, n_gpus=share, kept=load.kept)
    ]
    return sorted(jobs, key=lambda job: -job.predicted_s)


def _shares(weights: Sequence[float], n_gpus: int) -> list[int]:
    """`n_gpus` dealt out by weight, at least one each: each next one to whom it shortens the longest wait."""
    shares = [1] * len(weights)
    for _ in range(n_gpus - len(weights) if weights else 0):
        longest = max(range(len(weights)), key=lambda index: weights[index] / shares[index])
        shares[longest] += 1
    return shares


def pack(
    strands: Sequence[Strand], costs: CostModel, *, target_s: float, n_gpus: int, kept: Iterable[Part] = ()
) -> list[PlannedJob]:
    """The jobs of `strands` and of the `kept` parts, longest first, for a cluster of `n_gpus`.

    `kept` parts go into jobs as they are: their checkpoints fit no other group of cells.
    """
    whole, priced = list(kept), [costs.of(strand) for strand in strands]
    total = sum(one.cohort_s(one.strand.cells) for one in priced) + sum(part.seconds for part in whole)
    rounds = math.ceil((total + n_gpus * costs.start_s) / (target_s * n_gpus))
    lengths = [target_s]
    lengths += [costs.start_s + total / (n_gpus * count) for count in range(rounds, _MAX_ROUNDS + 1)]
    fitting = sorted({length for length in lengths if length <= target_s}, reverse=True)
    columns = [_columns(one, one.strand.cells, target_s - costs.start_s - one.shared_s) for one in priced]
    plans = []
    for length_s in fitting:
        cut = (_cut(one, some, length_s - costs.start_s) for one, some in zip(priced, columns, strict=True))
        parts = [part for some in cut for part in some]
        plans.append(_split_until(_fill([*whole, *parts], costs, length_s), costs, n_gpus))
    shortest_s = min(makespan_s(jobs, n_gpus) for jobs in plans)
    good = [jobs for jobs in plans if makespan_s(jobs, n_gpus) <= _NEARLY * shortest_s]
    fewest = min(range(len(good)), key=lambda index: len(good[index]))
    return sorted(good[fewest], key=lambda job: -job.predicted_s)


def makespan_s(jobs: Iterable[PlannedJob], n_gpus: int) -> float:
    """Seconds until the last of `jobs` ends, each given to the GPU that is free first, longest first."""
    longest_first = sorted((job.predicted_s for job in jobs), reverse=True)
    free = [0.0] * max(1, min(n_gpus, len(longest_first)))
    for seconds in longest_first:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def _fill(parts: Iterable[Part], costs: CostModel, length_s: float) -> list[PlannedJob]:
    """Best fit, longest first: each part goes into the fullest job that still has room for it."""
    room_s = length_s - costs.start_s
    bins: list[list[Part]] = []
    rooms: list[tuple[float, int]] = []  # what is left in a bin, ascending
    for part in sorted(parts, key=lambda part: -part.seconds):
        at = bisect_left(rooms, (part.seconds, -1))
        if at < len(rooms):
            left, index = rooms.pop(at)
            bins[index].append(part)
        else:
            left, index = room_s, len(bins)
            bins.append([part])
        if left - part.seconds > 0:
            insort(rooms, (left - part.seconds, index))
    return [_job(parts, costs) for parts in bins]


def _job(parts: Sequence[Part], costs: CostModel) -> PlannedJob:
    return PlannedJob(parts=tuple(parts), predicted_s=costs.start_s + sum(part.seconds for part in parts))


def _cut(costs: StrandCosts, columns: Sequence[_Column], room_s: float) -> list[Part]:
    """The strand's columns in as few parts as take at most `room_s` each, of about equal length."""
    budget_s = room_s - costs.shared_s
    if budget_s <= 0:
        return _deal(costs, columns, len(columns))
    n_parts = max(1, math.ceil(sum(seconds for seconds, _ in columns) / budget_s))
    while True:
        n_parts = min(n_parts, len(columns))
        parts = _deal(costs, columns, n_parts)
        longest_s = max(part.seconds for part in parts)
        if longest_s <= _OVER * room_s or n_parts == len(columns):
            return parts
        n_parts = max(n_parts + 1, int(n_parts * longest_s / room_s))


def _columns(costs: StrandCosts, cells: Sequence[JobCell], budget_s: float) -> list[_Column]:
    """Seconds and cells of each position, or of pieces of it where a position alone is longer than `budget_s`.

    The reference engine gains nothing from keeping a position's cells together: there each cell is a piece.
    """
    if not costs.shares_work:
        return [(costs.column_s([cell.place]), (cell,)) for cell in cells]
    by_column: dict[int | PlaceSet, list[JobCell]] = {}
    for cell in cells:
        by_column.setdefault(cell.place.column, []).append(cell)
    columns = []
    for column in by_column.values():
        seconds = costs.column_s([cell.place for cell in column])
        n_pieces = min(len(column), math.ceil(seconds / budget_s) if budget_s > 0 else len(column))
        columns += [
            (costs.column_s([cell.place for cell in piece]), tuple(piece))
            for piece in _chunks(column, max(1, n_pieces))
        ]
    return columns


def _chunks(cells: Sequence[JobCell], n_chunks: int) -> list[Sequence[JobCell]]:
    ends = [len(cells) * index // n_chunks for index in range(n_chunks + 1)]
    return [cells[start:end] for start, end in pairwise(ends)]


def _deal(costs: StrandCosts, columns: Sequence[_Column], n_parts: int) -> list[Part]:
    """`columns` dealt to `n_parts` parts, longest first, each to the part that is shortest so far."""
    if n_parts == 1:
        return [_part(costs, [cell for _, column in columns for cell in column])]
    heap: list[tuple[float, int, list[JobCell]]] = [(0.0, index, []) for index in range(n_parts)]
    for seconds, column in sorted(columns, key=lambda column: -column[0]):
        so_far, index, cells = heap[0]
        cells.extend(column)
        heapq.heapreplace(heap, (so_far + seconds, index, cells))
    return [_part(costs, cells) for _, _, cells in sorted(heap, key=lambda entry: entry[1]) if cells]


def _part(costs: StrandCosts, cells: Iterable[JobCell]) -> Part:
    return Part.of(costs, tuple(sorted(cells, key=lambda cell: cell.place.rank)))


def _split_until(jobs: Sequence[PlannedJob], costs: CostModel, n_gpus: int) -> list[PlannedJob]:
    """`jobs`, the longest one split again and again until there are `n_gpus` or none can be split."""
    heap = [(-job.predicted_s, index, job) for index, job in enumerate(jobs)]
    heapq.heapify(heap)
    done: list[PlannedJob] = []
    count = len(heap)
    while heap and len(heap) + len(done) < n_gpus:
        _, _, job = heapq.heappop(heap)
        halves = _split(job, costs)
        if len(halves) == 1:
            done.append(job)
        for half in halves if len(halves) > 1 else []:
            count += 1
            heapq.heappush(heap, (-half.predicted_s, count, half))
    return done + [job for _, _, job in heap]


def _split(job: PlannedJob, costs: CostModel) -> list[PlannedJob]:
    """The job as two of about equal length, or as it is where it cannot be split."""
    if len(job.parts) > 1:
        halves: list[list[Part]] = [[], []]
        seconds = [0.0, 0.0]
        for part in sorted(job.parts, key=lambda part: -part.seconds):
            lighter = seconds.index(min(seconds))
            halves[lighter].append(part)
            seconds[lighter] += part.seconds
        return [_job(half, costs) for half in halves]
    (part,) = job.parts
    if part.whole or len(part.cells) == 1:
        return [job]
    columns = _columns(part.costs, part.cells, math.inf)
    if len(columns) == 1:  # its cells run in one call: alone they would round otherwise, and for some minutes less
        return [job]
    return [_job([half], costs) for half in _deal(part.costs, columns, 2)]
