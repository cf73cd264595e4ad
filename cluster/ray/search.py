"""A search over a command's settings on Ray, from the side of who asks: hand it in, read how it goes.

    FOLDER/search.json              what to search                            written once, by the caller
    FOLDER/trials.json              every trial, its settings and measures    written by the driver (tune.py) alone
    FOLDER/trials/ID/settings.json  a trial's settings                        written before its command starts

A trial runs `command` with the trial's folder as its last argument. The command publishes what it measures in the file
that `CAUSALSWEEP_METRICS_FILE` names (see metrics.py): the metric, and `steps_done` of `steps_total`. When it is killed
and started again with the same folder, it continues.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from cluster.backend import ClusterError, ClusterUnavailable, ClusterUsageError, JobRequest
from cluster.files import create_json, get_record
from cluster.ray.api import RayApi, RayJobStatus
from cluster.ray.checking import check_cluster
from cluster.ray.record import RayJobOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A setting between two numbers, drawn evenly, or evenly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        """Raises: ClusterUsageError."""
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ClusterUsageError(f"{self}: `low` must be below `high`, and above 0 where `log` is set")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to search, and how far.

    ASHA (Li et al., 2020): a trial is measured `n_rungs` times on its way; at rungs 1, 3, 9, ... only the best third
    continues.
    """

    command: tuple[str, ...]
    space: Mapping[str, Range | tuple[Any, ...]]  # a range, or the values to choose from
    metric: str  # the name of a reading; the larger the better
    n_trials: int
    n_rungs: int = 9
    n_gpus: int = 1
    cpus_per_trial: float = 1.0
    max_failures: int = 3  # per trial
    time_limit_s: float | None = None  # for the search: running trials are then stopped, waiting ones never run
    seed: int = 0


def _by_rung(pairs: Any) -> dict[Any, Any]:
    try:
        return dict(pairs)
    except TypeError as error:
        raise ValueError("expected pairs of a rung and a number") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One trial so far."""

    name: str
    settings: Mapping[str, Any]
    state: str  # Ray Tune's word: PENDING, RUNNING, PAUSED, TERMINATED, ERROR
    # the metric by rung, in the file as pairs; a quick trial skips some
    values: Annotated[Mapping[int, float], BeforeValidator(_by_rung)] = field(default_factory=dict)
    error: str = ""

    @property
    def rung(self) -> int:
        """The last rung that it has reached; 0: it was never measured."""
        return max(self.values, default=0)

    @property
    def value(self) -> float | None:
        """The metric at that rung."""
        return self.values.get(self.rung)


def start_search(address: str, folder: Path, search: Search) -> str:
    """The id of the Ray Job that now runs the search in `folder`; the one that did, where it was started before.

    Raises: ClusterUsageError (as a submission: no Ray there, other versions, too few GPUs), ClusterUnavailable.
    """
    api, path = RayApi(address), folder / "search.json"
    request = JobRequest(
        name="a trial", label="", argv=search.command, log=folder / "log", time_s=0.0, n_gpus=search.n_gpus
    )
    check_cluster(api, [request], RayJobOptions(cpus_per_job=search.cpus_per_trial))
    create_json(path, asdict(search))
    name = f"{folder.name}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
    command = shlex.join([sys.executable, "-P", "-m", "cluster.ray.tune", str(path)])
    api.start_job(name, f"exec {command}", {"job_name": folder.name, "trials": str(search.n_trials)})
    return name


def read_trials(folder: Path) -> tuple[Trial, ...]:
    """The trials that have begun, in that order."""
    return get_record(folder / "trials.json", tuple[Trial, ...]) or ()


def wait_for_search(address: str, name: str, *, patience_s: float = 300.0) -> None:
    """Return when the search has ended. Raises: ClusterError (its driver failed; why), ClusterUnavailable (Ray has not
    answered for `patience_s`; the search may well continue)."""
    api, heard = RayApi(address), time.monotonic()
    while True:
        try:
            job = api.job(name)
            heard = time.monotonic()
        except ClusterUnavailable:
            if time.monotonic() - heard > patience_s:
                raise
        else:
            if job is None or job.status in (RayJobStatus.FAILED, RayJobStatus.STOPPED):
                said = api.job_log(name).strip().splitlines()[-3:]
                raise ClusterError(f"the search {name} failed on Ray: {' | '.join(said) or 'it is unknown there'}")
            if job.status.is_over():
                return
        time.sleep(1.0)
