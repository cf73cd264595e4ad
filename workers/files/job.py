"""The plain types of the two seams: a job file going in, a shard coming out. No torch here: planning is instant.

A **cell** is one point of the grid and yields one interchange intervention accuracy (IIA). Its **key** is the
SHA-256 of the canonical JSON of its science parameters; a partition, a folder or a GPU never enters it, so the
same cell planned elsewhere is the same cell. A **job file** (`jobs/JOB.json`) is all that a worker reads; a
**shard** (`shards/JOB-ATTEMPT.parquet`, schema `SHARD_SCHEMA`) is all that it hands back.
"""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from workers.files.document import NO_OTHER_KEYS, Format, NotThisFile
from workers.files.folder import SweepFolder
from workers.files.place import PLACE_VERSION, AnyPlace

# 1: a cell has `layer` and `position` beside its key; 2: a setting has no `split`, a cell is at one place;
# 3: no model is untrained
JOB_SCHEMA_VERSION: Final = max(4, PLACE_VERSION)
UNTRAINED_SEED: Final = "untrained_seed"  # in `Stream.model` where the model has initial weights: the seed of these
VALIDATION_SETTING: Final = "validation"  # the validation pairs, by which a chain chooses places
MAIN_SETTING: Final = "main"  # the setting that a cell is trained for; others only evaluate what it learned


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no blanks, plain ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def content_key(value: Any) -> str:
    """64 hexadecimal digits: the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What the cells of a cohort share: the data, and how they are trained.

    `model` is the weights' fingerprint (not a path) plus the dtype that they run in, and for an untrained model the
    seed of its initial weights; `task` holds the task's name and
    settings (and the hash of a user's file); `data` the sizes `n_train`, `n_eval`, `n_test`; `method` the method's
    name and every setting of it; `engine` is `suffix` or `reference`.
    """

    __pydantic_config__ = NO_OTHER_KEYS

    model: Mapping[str, Any]
    task: Mapping[str, Any]
    hypothesis: str
    seed: int
    data: Mapping[str, Any]
    method: Mapping[str, Any]
    engine: str

    @property
    def untrained_seed(self) -> int | None:
        """The seed of the model's initial weights; None where it has those of its checkpoint."""
        return self.model.get(UNTRAINED_SEED)

    def science(self) -> dict[str, Any]:
        """The part of a cell's science parameters that all cells of this stream have in common."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of the grid: what is trained, and where in the model it intervenes."""

    stream: Stream
    place: AnyPlace

    def science(self) -> dict[str, Any]:
        """The parameters that decide the result, as plain JSON values."""
        return self.stream.science() | self.place.science()

    def key(self) -> str:
        """The cell key."""
        return content_key(self.science())


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCell:
    """A cell as a job file names it: where to intervene, and how people call the place."""

    __pydantic_config__ = NO_OTHER_KEYS

    key: str
    place: AnyPlace
    token: str  # the token's text at that position, or `digit` where it varies; of several, in their order


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """Cells of one job that share a data stream and are trained side by side. `experiment` is the display name."""

    __pydantic_config__ = NO_OTHER_KEYS

    experiment: str
    stream: Stream
    cells: tuple[JobCell, ...]

    def key(self) -> str:
        """Identity of this group of cells: a checkpoint of it fits no other group."""
        return content_key([cell.key for cell in self.cells])


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A data distribution to evaluate learned alignments on, without training.

    `split` says which pairs, `task` overrides keys of the stream's task; `keep` restricts the pairs to prompts that the
    model answers right (`correct`), wrong (`incorrect`) or either (`all`); `experiments` limits it to these (empty:
    every one).
    """

    __pydantic_config__ = NO_OTHER_KEYS

    name: str
    task: Mapping[str, Any] = field(default_factory=dict)
    keep: str = "all"
    experiments: tuple[str, ...] = ()
    split: str = "test"  # or `validation`


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a worker runs a job; none of it changes a result."""

    __pydantic_config__ = NO_OTHER_KEYS

    device: str = "auto"  # auto | cpu | cuda
    threads: int = 1  # CPU threads of torch in one worker
    micro_batch: int = 0  # pairs a forward pass; 0: the method's batch size, halved when memory runs out
    max_cohort: int = 0  # cells side by side; 0: what the device's memory allows
    checkpoint_every_s: float = 120.0
    heartbeat_s: float = 2.0
    save_alignments: str = "subspace"  # none | subspace | full


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job file: cells packed to about the target length, run by one process on one GPU (or `n_gpus` of them)."""

    __pydantic_config__ = NO_OTHER_KEYS

    job: str  # unique in the sweep: letters, digits, '-' and '.'
    sweep: str
    folder: str  # the sweep's folder, absolute: in the file the one that it was planned in, here the one it lies in
    label: str  # for people: "left_boundary L15 p80..81 s42 (7 cells)"
    model_path: str  # absolute
    model_revision: str
    gate_task_accuracy: float  # below it the cells are recorded as skipped; 0.0 never skips
    cohorts: tuple[Cohort, ...]
    settings: tuple[Setting, ...] = ()
    options: RunOptions = field(default_factory=RunOptions)
    n_gpus: int = 1
    predicted_s: float = 0.0  # the planner's estimate of the whole job
    provenance: Mapping[str, Any] = field(default_factory=dict)  # git_sha, versions
    schema: int = JOB_SCHEMA_VERSION

    @property
    def sweep_folder(self) -> SweepFolder:
        """Where the sweep's files lie."""
        return SweepFolder(Path(self.folder))

    @property
    def n_cells(self) -> int:
        """Cells in all cohorts."""
        return sum(len(cohort.cells) for cohort in self.cohorts)

    def check_keys(self) -> None:
        """Nothing, where each cell's key is that of its science. Raises: NotThisFile: a result would be written down
        as that of another cell (the file was damaged, or edited, after it was planned)."""
        for cohort in self.cohorts:
            for cell in cohort.cells:
                if Cell(stream=cohort.stream, place=cell.place).key() != cell.key:
                    what = f"{cohort.experiment} {cell.place}: key `key`: got {cell.key!r}"
                    raise NotThisFile(
                        f"{self.job}: {what}; it is not the key of the cell's parameters: resume the sweep"
                    )

    def to_json(self) -> str:
        """The job file's text."""
        return JOB_FORMAT.text(self)

    @classmethod
    def load(cls, path: Path) -> Job:
        """The job in the file at `path`. Its folder is the one that the file lies in: a copied or moved sweep is a
        sweep of its own. Raises: OSError, NewerFile, NotThisFile."""
        job = JOB_FORMAT.read(path)
        jobs = path.absolute().parent
        return replace(job, folder=str(jobs.parent)) if jobs.name == SweepFolder(jobs.parent).jobs.name else job


def planned_in(path: Path) -> Path:
    """The sweep's folder in which the job of this file was planned. Raises: OSError, NewerFile, NotThisFile."""
    return Path(JOB_FORMAT.read(path).folder)


def _with_places(raw: dict[str, Any]) -> None:
    """Make a cell of version 1 one of version 2."""
    for cell in (cell for cohort in raw["cohorts"] for cell in cohort["cells"]):
        cell["place"] = {"layer": cell.pop("layer"), "position": cell.pop("position")}


JOB_FORMAT: Final = Format(
    kind=Job, name="a job file", version=JOB_SCHEMA_VERSION, upgrades=types.MappingProxyType({1: _with_places})
)
