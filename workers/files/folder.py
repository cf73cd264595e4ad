"""The files of a sweep's folder, and the one way to write one.

    sweeps/NAME/  sweep.yaml   cells.parquet   tasks/SHA256.py   data/KEY.parquet   jobs/JOB.json   submissions/rN.json
                  shards/JOB-ATTEMPT.parquet   progress/JOB-ATTEMPT.json   checkpoints/   alignments/
                  traces/JOB-ATTEMPT.parquet   logs/   store/   report/index.html   budget.json   notify.json
                  notified/EVENT

Every file has one writer and is replaced whole, so a reader sees the old or the new one, never a part. Readers skip
names that begin with `_` or `.` or end in `.tmp`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


def replace_file(path: Path, content: bytes | str) -> None:
    """Write `content` to `path` whole or not at all: unique temporary name in the same folder, fsync, os.replace.

    Raises: OSError (read-only or full disk); the temporary file is then removed and `path` is as it was.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def visible_files(folder: Path, suffix: str) -> Iterator[Path]:
    """The finished files of `folder` whose name ends in `suffix`, by name; nothing where there is no folder.

    Folders, and links that lead nowhere, are passed over.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if name.endswith(suffix) and not name.startswith(("_", ".")):
            yield folder / name


def take_over_files(folder: SweepFolder, other: SweepFolder) -> None:
    """What the nodes need of the user's files, from a sweep that has it. Raises: OSError."""
    for name in ("tasks", "data"):
        for path in visible_files(other.root / name, ""):
            target = folder.root / name / path.name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(path, target)


def _link(path: Path, target: Path) -> None:
    """The same file by another name, as such files never change; a copy where the file system has no such thing."""
    try:
        os.link(path, target)
    except OSError:
        replace_file(target, path.read_bytes())


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Where the files of one sweep lie. Creating the object touches nothing."""

    root: Path

    @property
    def spec(self) -> Path:
        """The spec as resolved."""
        return self.root / "sweep.yaml"

    @property
    def cells(self) -> Path:
        """Every planned cell."""
        return self.root / "cells.parquet"

    @property
    def budget(self) -> Path:
        """How many GPU-hours the sweep may spend."""
        return self.root / "budget.json"

    @property
    def notify(self) -> Path:
        """The command that is run for the sweep's events."""
        return self.root / "notify.json"

    @property
    def notified(self) -> Path:
        """One empty file for each event that somebody was told of."""
        return self.root / "notified"

    @property
    def jobs(self) -> Path:
        """Job files."""
        return self.root / "jobs"

    @property
    def submissions(self) -> Path:
        """One record a call of submit: backend, token, jobs and their scheduler ids."""
        return self.root / "submissions"

    @property
    def shards(self) -> Path:
        """Shards."""
        return self.root / "shards"

    @property
    def progress(self) -> Path:
        """Heartbeats and failures."""
        return self.root / "progress"

    @property
    def checkpoints(self) -> Path:
        """Cells in flight."""
        return self.root / "checkpoints"

    @property
    def alignments(self) -> Path:
        """What cells learned."""
        return self.root / "alignments"

    @property
    def traces(self) -> Path:
        """How cells learned, for pages and people."""
        return self.root / "traces"

    @property
    def logs(self) -> Path:
        """One log an attempt, and the backend's own."""
        return self.root / "logs"

    @property
    def store(self) -> Path:
        """All shards gathered."""
        return self.root / "store"

    @property
    def report(self) -> Path:
        """Pictures and the HTML page."""
        return self.root / "report"

    def job_file(self, job: str) -> Path:
        """The job file of `job`."""
        return self.jobs / f"{job}.json"

    def task_file(self, sha256: str) -> Path:
        """The copy of a user's task file with this hash, for every node to read."""
        return self.root / "tasks" / f"{sha256}.py"

    def autoencoder(self, sha256: str) -> Path:
        """The folder with the copy of a sparse autoencoder whose files have this hash, for every node to read."""
        return self.root / "autoencoders" / sha256

    def data_file(self, key: str) -> Path:
        """The table of a file of pairs in the model's tokens, for every node to read."""
        return self.root / "data" / f"{key}.parquet"

    def attempt_name(self, job: str, attempt: int) -> str:
        """`JOB-ATTEMPT`, the stem of an attempt's own files."""
        return f"{job}-{attempt:04d}"

    def make(self) -> None:
        """Create the folders. Raises: OSError."""
        for folder in (
            self.jobs,
            self.submissions,
            self.shards,
            self.progress,
            self.checkpoints,
            self.alignments,
            self.logs,
        ):
            folder.mkdir(parents=True, exist_ok=True)
