"""The SLURM backend's files, all below `folder/cluster/slurm/`.

    limit.json                      how many jobs may run at once         written by the callers of limit
    held.json                       the jobs that the user holds          written by the callers of control
    TOKEN/requests.json             one call of submit: its requests      written once
    TOKEN/chunks/FIRST.json         one array: what it holds, its id      written by the process that holds TOKEN/.lock
    TOKEN/runs/INDEX-RESTART-*.json one run of one request on a node      written by the task that runs it
    TOKEN/submitit/                 submitit's scripts, pickles and the tasks' own output

A handle is ARRAY_TASK, SLURM's own id; where one SLURM job runs several requests side by side, ARRAY_TASK.SLOT.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.backend import ClusterUsageError, JobRequest
from cluster.files import create_json, get_record, put_json, records_in
from cluster.process import only_sender, request_to_json, was_made_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One array: the requests first..first+n_requests-1 of a submission, `per_task` to a SLURM job."""

    token: str
    first: int
    n_requests: int
    per_task: int
    name: str  # the array's name in SLURM, which no other has
    time_minutes: int
    is_followup: bool = False  # does not count against the sweep's limit of running jobs
    job: str = ""  # its id; empty until SLURM's answer was written down
    released: bool = False

    @property
    def n_tasks(self) -> int:
        """The array's size."""
        return -(-self.n_requests // self.per_task)

    @property
    def last(self) -> int:
        """The index after its last request."""
        return self.first + self.n_requests

    def handle(self, index: int) -> str:
        """The handle of the submission's request number `index`."""
        task, slot = divmod(index - self.first, self.per_task)
        return f"{self.job}_{task}" + (f".{slot}" if self.per_task > 1 else "")

    def indices(self, task: int) -> range:
        """The requests that one task of the array runs."""
        first = self.first + task * self.per_task
        return range(first, min(first + self.per_task, self.last))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRun:
    """What a task wrote down of one run of a request. Times are Unix seconds; `ended` is 0.0 while it runs."""

    node: str
    gpu: str
    restart: int
    started: float
    ended: float = 0.0
    exit_code: int = 0  # as in Popen.returncode
    error: str = ""  # why the command could not be started
    again: bool = False  # it was interrupted and the task asked SLURM to run it again

    @property
    def elapsed_s(self) -> float:
        """How long it ran; 0.0 while it runs."""
        return self.ended - self.started if self.ended else 0.0


@dataclass(frozen=True, slots=True)
class Handle:
    """A handle taken apart."""

    job: str  # the array
    task: int
    slot: int = 0

    @classmethod
    def parse(cls, text: str) -> Handle | None:
        """The handle in `text`, or None where it is none of ours."""
        match = re.fullmatch(r"(\d+)_(\d+)(?:\.(\d+))?", text)
        return cls(match[1], int(match[2]), int(match[3] or 0)) if match else None


class SlurmFiles:
    """The files of one sweep's SLURM backend. Creating the object touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "cluster" / "slurm"

    def submission(self, token: str) -> BatchFiles:
        """The files of one call of submit."""
        return BatchFiles(self.root / token)

    def chunks(self) -> list[tuple[BatchFiles, Chunk]]:
        """Every array that was ever sent, first come first."""
        folders = [path.parent for path in self.root.glob("*/requests.json")]
        submissions = [BatchFiles(folder) for folder in sorted(folders, key=lambda folder: folder.stat().st_ctime_ns)]
        found = [(submission, chunk) for submission in submissions for chunk in submission.chunks() if chunk.job]
        return sorted(found, key=lambda pair: int(pair[1].job))

    def own_chunks(self) -> list[Chunk]:
        """The arrays that were sent from this folder: those of one of which it is a copy are not the copy's."""
        return [chunk for submission, chunk in self.chunks() if submission.is_own()]

    def held(self) -> set[str]:
        """The handles of the jobs that the user holds."""
        return set(get_record(self.root / "held.json", list[str]) or ())

    def set_held(self, handles: set[str]) -> None:
        """Write down which jobs the user holds."""
        if handles != self.held():
            put_json(self.root / "held.json", sorted(handles))

    def limit(self) -> int | None:
        """How many jobs may run at once, None where nobody said."""
        limit = get_record(self.root / "limit.json", dict[str, int | None])
        return limit.get("n_jobs") if limit else None

    def has_limit(self) -> bool:
        """Whether somebody said how many jobs may run at once, or that it does not matter."""
        return (self.root / "limit.json").exists()

    def set_limit(self, n_jobs: int | None) -> None:
        """Write down how many jobs may run at once."""
        put_json(self.root / "limit.json", {"n_jobs": n_jobs})


@dataclass(frozen=True, slots=True)
class BatchFiles:
    """The files of one call of submit."""

    folder: Path

    @property
    def submitit(self) -> Path:
        """submitit's own folder."""
        return self.folder / "submitit"

    def begin(self, requests: Sequence[JobRequest]) -> bool:
        """Whether this is the first call with its token; only then the requests are written down."""
        return create_json(self.folder / "requests.json", [request_to_json(request) for request in requests])

    def forget(self) -> None:
        """Drop a submission of which nothing was accepted."""
        (self.folder / "requests.json").unlink()

    def requests(self) -> list[JobRequest]:
        """The requests, in the order of submission. Raises: ClusterUsageError (they cannot be read)."""
        path = self.folder / "requests.json"
        requests = get_record(path, list[JobRequest])
        if requests is None:
            raise ClusterUsageError(f"{path}: not readable; restore it, or cancel the sweep's SLURM jobs and resume")
        return requests

    def is_own(self) -> bool:
        """Whether the requests were made in the folder that these files lie in."""
        requests = get_record(self.folder / "requests.json", list[JobRequest]) or []
        return all(was_made_in(self.folder.parents[2], request) for request in requests[:1])

    @contextmanager
    def lock(self) -> Iterator[None]:
        """While it is held no other process sends jobs of this submission. Raises: ClusterUnavailable."""
        with only_sender(self.folder / ".lock", self.folder.name):
            yield

    def chunk_path(self, first: int) -> Path:
        """Where the array that begins with request number `first` is written down."""
        return self.folder / "chunks" / f"{first:06d}.json"

    def chunks(self) -> list[Chunk]:
        """The arrays, sent or about to be, in order; the log names one that cannot be read."""
        return [chunk for path in records_in(self.folder / "chunks") if (chunk := get_record(path, Chunk))]

    def put_chunk(self, chunk: Chunk) -> None:
        """Write down an array, or what became of it."""
        put_json(self.chunk_path(chunk.first), asdict(chunk))

    def forget_chunk(self, chunk: Chunk) -> None:
        """Drop the intention of an array that SLURM refused."""
        self.chunk_path(chunk.first).unlink()

    def handles(self) -> dict[str, str]:
        """The handle of each accepted request by name."""
        requests = self.requests()
        return {
            requests[index].name: chunk.handle(index)
            for chunk in self.chunks()
            if chunk.job
            for index in range(chunk.first, chunk.last)
        }

    def run_path(self, index: int, record: TaskRun) -> Path:
        """Where a run is written down: two runs of one request, an orphan and its copy, never share a file."""
        return self.folder / "runs" / f"{index:06d}-{record.restart:04d}-{int(record.started * 1000)}.json"

    def put_run(self, index: int, record: TaskRun) -> None:
        """Write down a run, or how it ended."""
        put_json(self.run_path(index, record), asdict(record))

    def n_runs(self, index: int) -> int:
        """How often a request was started."""
        return sum(1 for _ in (self.folder / "runs").glob(f"{index:06d}-*.json"))

    def runs(self, indices: Collection[int]) -> dict[int, TaskRun]:
        """The latest run of each of these requests that ever ran."""
        latest: dict[int, Path] = {}
        for path in records_in(self.folder / "runs"):
            index = path.name.partition("-")[0]
            if index.isdigit():
                latest[int(index)] = path
        found = {index: get_record(latest[index], TaskRun) for index in indices if index in latest}
        return {index: record for index, record in found.items() if record is not None}
