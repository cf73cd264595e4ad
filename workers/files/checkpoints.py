"""How a checkpoint file is called: COHORT.JOB-ATTEMPT.safetensors, where COHORT begins the key of its group of cells.

What is in the file is `workers.methods.checkpoint`'s; the planner needs no more than the name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from workers.files.folder import visible_files

SUFFIX: Final = ".safetensors"
_N_DIGITS: Final = 24
_NAME: Final = re.compile(rf"(?P<cohort>[0-9a-f]{{{_N_DIGITS}}})\.(?P<job>[A-Za-z0-9.-]+)-\d{{4,}}\{SUFFIX}")


@dataclass(frozen=True, slots=True)
class CheckpointName:
    """A checkpoint file's name, taken apart."""

    path: Path
    cohort: str  # as `cohort_name` gives it
    job: str


def cohort_name(cohort_key: str) -> str:
    """The beginning of a cohort's key (`Cohort.key`) that the names of its checkpoints bear."""
    return cohort_key[:_N_DIGITS]


def checkpoint_path(folder: Path, cohort_key: str, attempt_name: str) -> Path:
    """Where the attempt `JOB-ATTEMPT` keeps the checkpoint of this cohort."""
    return folder / f"{cohort_name(cohort_key)}.{attempt_name}{SUFFIX}"


def checkpoints(folder: Path) -> Iterator[CheckpointName]:
    """The checkpoint files in `folder`, by name."""
    for path in visible_files(folder, SUFFIX):
        match = _NAME.fullmatch(path.name)
        if match:
            yield CheckpointName(path, match["cohort"], match["job"])
