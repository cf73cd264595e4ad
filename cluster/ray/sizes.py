"""How much is in a job, as its label says it for people: `left_boundary L15 (7 cells)`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from cluster.backend import JobRequest, JobState
from cluster.ray.record import JobRecord

JOBS: Final = "jobs"  # what is counted where a label says nothing
_SIZE: Final = re.compile(r"\((\d+) (\w+?)s?\)$")


def size_of(request: JobRequest) -> tuple[int, str]:
    """How much is in a job, and of what: `7, "cells"`; `1, "jobs"` where its label does not say."""
    found = _SIZE.search(request.label)
    return (int(found[1]), f"{found[2]}s") if found else (1, JOBS)


def amounts(jobs: Iterable[tuple[JobRequest, JobRecord]]) -> Counter[tuple[str, JobState]]:
    """How much is in the jobs of each state, by its unit: jobs that never published a number count too."""
    found: Counter[tuple[str, JobState]] = Counter()
    for request, record in jobs:
        n, unit = size_of(request)
        found[unit, record.state] += n
    return found
