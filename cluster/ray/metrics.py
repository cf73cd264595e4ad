"""Numbers of running jobs as gauges at Ray's metrics port, for Prometheus and Grafana.

A job publishes by replacing the file that `CAUSALSWEEP_METRICS_FILE` names with a JSON list of readings:

    [{"name": "cells_done", "value": 3, "combine": "sum", "tags": {"hypothesis": "left_boundary", "layer": "15"}}]

`combine` says how the readings of several jobs with the same name and tags become one number: `sum` (the last reading
of each job, ended ones too), `max`, or `now` (added over the jobs that run). What the names mean is the job's affair.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from cluster.backend import JobRequest, JobState
from cluster.files import get_record
from cluster.ray.record import JobRecord
from cluster.ray.sizes import JOBS, amounts

PREFIX: Final = "causalsweep_"  # Ray puts `ray_` before it
Combine: TypeAlias = Literal["sum", "max", "now"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """One number of one job."""

    name: str
    value: float
    combine: Combine
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Published:
    """A reading as its file has it."""

    name: str
    value: float
    combine: Combine
    tags: Mapping[str, Any] = field(default_factory=dict)


def read_metrics(path: Path) -> tuple[Reading, ...] | None:
    """The readings in a metrics file, or None where there are none to be had; the log names a file that is damaged."""
    try:
        published = get_record(path, list[_Published])
    except OSError as error:
        _log.warning("%s: %s", path, error.strerror)
        return None
    if published is None:
        return None
    return tuple(
        Reading(one.name, one.value, one.combine, tuple(sorted((name, str(tag)) for name, tag in one.tags.items())))
        for one in published
    )


def combined(readings: Mapping[str, Iterable[Reading]], running: set[str]) -> dict[Reading, float]:
    """One number for each name and set of tags (its reading with the value 0), from the last readings of each job."""
    result: dict[Reading, float] = {}
    for job, of_job in readings.items():
        for reading in of_job:
            series = Reading(reading.name, 0.0, reading.combine, reading.tags)
            if reading.combine == "max":
                result[series] = max(result.get(series, reading.value), reading.value)
            else:
                counts = reading.combine == "sum" or job in running
                result[series] = result.get(series, 0.0) + (reading.value if counts else 0.0)
    return result


class Gauges:
    """The gauges of one dispatcher. Use only in a process that is connected to Ray."""

    def __init__(self, sweep: str) -> None:
        self.sweep = sweep
        self._gauges: dict[str, Any] = {}
        self.readings: dict[str, tuple[Reading, ...]] = {}  # the last ones, by handle

    def read(self, handle: str, path: Path) -> None:
        """Take over what a job has published since."""
        readings = read_metrics(path)
        if readings is not None:
            self.readings[handle] = readings

    def export(self, jobs: Sequence[tuple[JobRequest, JobRecord]], running: set[str]) -> None:
        """Set every gauge: how many jobs are in each state and how much is in them, and the jobs' own readings."""
        states = Counter(record.state for _, record in jobs)
        sizes = amounts(jobs)
        for state in JobState:
            self._set("jobs", states[state], (("state", str(state)),))
            for unit in {one for one, _ in sizes} - {JOBS}:
                self._set(f"{unit}_in_jobs", sizes[unit, state], (("state", str(state)),))
        for series, value in combined(self.readings, running).items():
            self._set(series.name, value, series.tags)

    def summary(self, running: set[str]) -> str:
        """One line for people: each name's number over all tags."""
        bare = {job: tuple(replace(one, tags=()) for one in of_job) for job, of_job in self.readings.items()}
        return ", ".join(f"{series.name} {value:.4g}" for series, value in combined(bare, running).items())

    def _set(self, name: str, value: float, tags: tuple[tuple[str, str], ...]) -> None:
        from ray.util.metrics import Gauge  # here: `combined` is tested without Ray

        labels = {"sweep": self.sweep, **dict(tags)}
        if name not in self._gauges:
            self._gauges[name] = Gauge(PREFIX + name, description=name.replace("_", " "), tag_keys=tuple(labels))
        try:
            self._gauges[name].set(value, tags=labels)
        except ValueError as error:  # tags that this name did not have at first
            _log.warning("%s: %s", name, error)
