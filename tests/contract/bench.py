"""A bench to try a backend on: tiny jobs, and waiting for what they and the backend say."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.backend import AbstractCluster, HandleStatus, JobRequest, JobState

TINY_JOB = Path(__file__).with_name("tiny_job.py")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A sweep's folder and the way to make the backend under test, again and again, as other processes would."""

    folder: Path
    make: Callable[[Path, Mapping[str, Any]], AbstractCluster]
    options: Mapping[str, Any]
    name: str  # CAUSALSWEEP_BACKEND of its jobs
    patience_s: float = 30.0  # how long it may take to do what it was told
    hurry: Callable[[], None] = lambda: None  # makes the backend do now what it has put off
    describe: Callable[[], str] = lambda: ""  # what the backend shows, for the message of a wait that failed
    env: dict[str, str] = field(default_factory=lambda: {"TINY_COLOUR": "red"})

    def cluster(self, **options: Any) -> AbstractCluster:
        """A fresh backend object on the folder."""
        return self.make(self.folder, {**self.options, **options})

    def request(self, name: str, *arguments: str, until: str = "", n_gpus: int = 1) -> JobRequest:
        """A tiny job; `until` names the gate file that lets it end."""
        gate = ("--until", str(self.folder / until)) if until else ()
        return JobRequest(
            name=name,
            label=f"tiny {name}",
            argv=(sys.executable, "-I", "-S", str(TINY_JOB), str(self.folder), name, *gate, *arguments),
            log=self.folder / "logs" / f"{name}.log",
            time_s=60.0,
            n_gpus=n_gpus,
            max_restarts=20,
            max_retries=3,
            env=self.env,
        )

    def open(self, gate: str) -> None:
        """Let the jobs that wait for this gate end."""
        (self.folder / gate).touch()

    def starts(self, name: str) -> list[dict[str, Any]]:
        """What each start of a job saw."""
        path = self.folder / f"{name}.starts"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def ends(self, name: str) -> int:
        """How often a job came to its end."""
        path = self.folder / f"{name}.done"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def checkpoint(self, name: str) -> int | None:
        """The step that a job wrote down when it was interrupted."""
        path = self.folder / f"{name}.step"
        return int(path.read_text()) if path.exists() else None

    def wait(self, what: str, is_so: Callable[[], bool], patience_s: float | None = None) -> None:
        """Until `is_so()`; fails the test where that takes too long."""
        limit_s = patience_s or self.patience_s
        end = time.monotonic() + limit_s
        while not is_so():
            assert time.monotonic() < end, f"not within {limit_s:.0f} s: {what}\n{self.describe()}"
            self.hurry()
            time.sleep(0.05)

    def wait_for_start(self, *names: str, n: int = 1) -> None:
        """Until each job has started `n` times."""
        self.wait(f"start {n} of {names}", lambda: all(len(self.starts(name)) >= n for name in names))

    def wait_for(self, handles: Mapping[str, str], *states: JobState) -> dict[str, HandleStatus]:
        """The statuses by name, once each is in one of `states` (default: finished)."""
        cluster = self.cluster()
        seen: dict[str, HandleStatus] = {}

        def is_so() -> bool:
            seen.update(cluster.poll(list(handles.values())))
            return all(one.state in states if states else one.state.is_finished() for one in seen.values())

        try:
            self.wait(f"{states or 'finished'}", is_so)
        except AssertionError as error:
            raise AssertionError(f"{error}; seen: {seen}") from None
        return {name: seen[handle] for name, handle in handles.items()}
