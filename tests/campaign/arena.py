"""Where one episode happens: a folder, a small sweep, its commands, its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cluster.process import ProcessId
from orchestrator import Sweep
from orchestrator.spec.text import to_yaml
from workers.files.folder import SweepFolder

NAME: Final = "tiny"
PROJECT: Final = Path(__file__).parents[2]
CHECKPOINT_EVERY_S: Final = 1.0
_COMMAND: Final = (sys.executable, "-P", "-m", "orchestrator")
_PATIENCE_S: Final = 240.0  # for one command, however disturbed
# What a command may end with, as the documentation says; anything else is a fault of the program.
DOCUMENTED: Final = frozenset({0, 1, 2, 130})


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One command of the episode and how it ended. `code` is None for a command that the campaign killed."""

    arguments: tuple[str, ...]
    code: int | None
    output: str


@dataclass(slots=True)
class Arena:
    """One episode's folder. `options` are the backend's own, for the spec."""

    root: Path
    backend: str
    options: Mapping[str, Any]
    env: Mapping[str, str] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)

    @property
    def folder(self) -> SweepFolder:
        """The sweep's folder."""
        return SweepFolder(self.root / "sweeps" / NAME)

    def write_spec(self) -> None:
        """Eight cells: two hypotheses, two layers, two positions; some seconds of training."""
        self.root.mkdir(parents=True, exist_ok=True)
        spec = {
            "name": NAME,
            "model": {"path": str(PROJECT / "examples" / "demo-model"), "dtype": "float32"},
            "task": "price_tagging",
            "grid": {"experiments": ["left_boundary", "bracket_identity"], "layers": [1, 3], "positions": "80..81"},
            "data": {"n_train": 1280, "n_eval": 64, "n_test": 128},
            "gate": {"task_accuracy": 0.5},
            "jobs": {"lost_after_s": 20.0},
            "run": {"checkpoint_every_s": CHECKPOINT_EVERY_S, "heartbeat_s": 0.5},
            "cluster": {"nodes": 2, "gpus_per_node": 1, "gpu": "cpu"},
        }
        text = to_yaml(spec | {self.backend: dict(self.options)})
        (self.root / f"{NAME}.yaml").write_text(text, encoding="utf-8")

    def command(self, *arguments: str, kill_after_s: float | None = None) -> Said:
        """Run a command of the command line, or kill it with SIGKILL after `kill_after_s` seconds."""
        process = self.start(*arguments)
        try:
            output, _ = process.communicate(timeout=_PATIENCE_S if kill_after_s is None else kill_after_s)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            code = None if kill_after_s is not None else -signal.SIGKILL
        said = Said(arguments=arguments, code=code, output=output)
        self.said.append(said)
        return said

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command, just begun."""
        env = {**os.environ, **self.env, "PYTHONPATH": str(PROJECT)}
        return subprocess.Popen(
            [*_COMMAND, *arguments],
            cwd=self.root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def sweep(self) -> Sweep:
        """The sweep as it is planned. Raises: what `Sweep.load` raises."""
        return Sweep.load(NAME, sweeps=self.root / "sweeps")

    def pids(self, *words: str) -> list[int]:
        """The processes of this episode whose command line has each of `words`."""
        return [pid for pid, line in self.processes() if all(word in line for word in words)]

    def processes(self) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Every process with this folder in its command line, and that line."""
        root = str(self.root)
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = tuple((entry / "cmdline").read_bytes().decode(errors="replace").split("\0"))
                if any(word.startswith(root) for word in line) and int(entry.name) != os.getpid():
                    yield int(entry.name), line

    def workers(self) -> dict[int, str]:
        """The workers that run now: process number and job file."""
        found = {}
        for pid, line in self.processes():
            if "workers" in line and "-m" in line:
                found[pid] = next(word for word in line if word.startswith(str(self.root)))
        return found


class Overlaps:
    """Watches for two runs of one job at the same time, longer than it takes the first one to die.

    Used as a context manager around an episode; `found` names the jobs afterwards.
    """

    def __init__(self, arena: Arena, *, tolerance_s: float = 3.0) -> None:
        self._arena, self._tolerance_s = arena, tolerance_s
        self._since: dict[tuple[str, frozenset[ProcessId]], float] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.found: set[str] = set()

    def __enter__(self) -> Overlaps:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._closed.set()
        self._thread.join()

    def look(self, now: float) -> None:
        """Compare what runs now with what ran before."""
        runs: dict[str, set[ProcessId]] = {}
        for pid, job in self._arena.workers().items():
            with contextlib.suppress(ProcessLookupError):
                runs.setdefault(job, set()).add(ProcessId.of(pid))
        double = {(job, frozenset(processes)) for job, processes in runs.items() if len(processes) > 1}
        self._since = {key: self._since.get(key, now) for key in double}
        self.found |= {Path(job).stem for (job, _), since in self._since.items() if now - since > self._tolerance_s}

    def _watch(self) -> None:
        while not self._closed.wait(0.3):
            self.look(time.monotonic())
