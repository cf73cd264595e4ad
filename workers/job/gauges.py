"""Numbers for whoever watches a cluster: cells by state, best IIA and pace, by hypothesis, layer and site.

Where a backend names a file in `CAUSALSWEEP_METRICS_FILE`, the job replaces it at every heartbeat with a JSON list of
readings `{name, value, combine, tags}`; `combine` says how the readings of several jobs become one number: `sum` (jobs
that ended count too), `max`, or `now` (the jobs that run). For watching only: the shards are the record.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from workers.files.folder import replace_file
from workers.files.job import MAIN_SETTING, Cohort, Job
from workers.files.place import AnyPlace, PlaceSet
from workers.files.progress import ENV_METRICS_FILE, Progress

_Tags: TypeAlias = tuple[str, str, str]  # experiment, layer, site


def _where(place: AnyPlace) -> tuple[str, str]:
    """Layer and site of a cell; of a set of places its name."""
    return ("", place.name) if isinstance(place, PlaceSet) else (str(place.layer), place.site)


class MetricsFile:
    """The readings of one attempt. Without a file to write to it does nothing."""

    def __init__(self, job: Job) -> None:
        self._path = os.environ.get(ENV_METRICS_FILE, "")
        self._tags = {cell.key: (one.experiment, *_where(cell.place)) for one in job.cohorts for cell in one.cells}
        self._status: dict[str, str] = {}  # by cell key, of the cells that are over
        self._best: dict[_Tags, float] = {}

    def begin(self, cohorts: Iterable[Cohort]) -> None:
        """Take the cells that are in none of the cohorts to be run as done by earlier attempts."""
        to_run = {cell.key for cohort in cohorts for cell in cohort.cells}
        self._status = dict.fromkeys(self._tags.keys() - to_run, "done")

    def count(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take over what became of some cells."""
        for row in rows:
            if row["setting"] != MAIN_SETTING:
                continue
            self._status[row["cell_key"]] = row["status"]
            if row["status"] == "done" and row.get("metric") == "iia":
                tags = self._tags[row["cell_key"]]
                self._best[tags] = max(row["iia"], self._best.get(tags, 0.0))

    def readings(self, progress: Progress) -> list[dict[str, Any]]:
        """What there is to be seen now."""
        found: list[dict[str, Any]] = [
            _reading("pairs_per_s", progress.pairs_per_s, "now"),
            _reading("steps_done", progress.steps_done, "sum"),
            _reading("steps_total", progress.steps_total, "sum"),
        ]
        found += [_reading(f"validation_{name}", value, "max") for name, value in progress.metrics.items()]
        states = self._status | dict.fromkeys(progress.running_cells, "running")
        counts = Counter((state, self._tags[key]) for key, state in states.items() if key in self._tags)
        for tags in dict.fromkeys(self._tags.values()):
            for state in ("done", "failed", "skipped", "running"):
                combine = "now" if state == "running" else "sum"
                found.append(_reading(f"cells_{state}", counts[state, tags], combine, tags))
        return found + [_reading("best_iia", best, "max", tags) for tags, best in dict(self._best).items()]

    def write(self, progress: Progress) -> None:
        """Replace the file; one that cannot be written is left as it is."""
        if self._path:
            with suppress(OSError):
                replace_file(Path(self._path), json.dumps(self.readings(progress)))


def _reading(name: str, value: float, combine: str, tags: _Tags | None = None) -> dict[str, Any]:
    named = dict(zip(("hypothesis", "layer", "site"), tags or (), strict=False))
    return {"name": name, "value": value, "combine": combine, "tags": named}
