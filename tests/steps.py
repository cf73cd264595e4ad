"""Every command killed at every moment, and what the next natural command makes of the folder.

    python -m tests.steps                  every command at every step
    python -m tests.steps submit cancel    these commands alone
    python -m tests.steps --stride 5       each fifth step, as in CI
    python -m tests.steps --processes      with the local backend's real dispatcher and runners

A step is a side effect: a file of the sweep that is opened for writing, renamed, linked or removed, a folder made, a
process started. An audit hook counts them, and ends the process before the n-th, as SIGKILL would. Afterwards the
command that a user would give next must end with 0, the sweep must come to its end, every cell with one row, and no
cell may have been run twice. Jobs are stubs that write rows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq

from cluster.local import backend as local
from cluster.local import processes
from cluster.local.queue import LocalFiles, RunnerRecord
from cluster.process import ProcessId
from orchestrator.jobs import submit
from orchestrator.spec.text import to_yaml
from tests.damage import run
from tests.stub_worker import finish
from tests.unit.orchestrator.specs import raw_spec
from workers.files.failure import EXIT_BAD_INPUT
from workers.files.job import Job

KILLED: Final = 137
NAME: Final = "small"
DEMO_MODEL: Final = Path(__file__).parents[1] / "examples" / "demo-model"
_ONE_PATH: Final = ("os.remove", "os.mkdir", "os.rmdir", "os.utime", "os.truncate")
_TWO_PATHS: Final = ("os.rename", "os.link", "os.symlink")
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Steps:
    """Counts the side effects below a folder, and ends the process before the one of number `kill_at`."""

    def __init__(self, root: Path, kill_at: int) -> None:
        self.root, self.kill_at, self.n, self.is_on = str(root), kill_at, 0, True
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and self._is_step(event, arguments):
            self.n += 1
            if self.n == self.kill_at:
                os._exit(KILLED)

    def _is_step(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "subprocess.Popen":
            return True
        if event == "open":
            return bool(arguments[2] & _WRITES) and str(arguments[0]).startswith(self.root)
        if event in _ONE_PATH or event in _TWO_PATHS:
            return str(arguments[event in _TWO_PATHS]).startswith(self.root)
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended; KILLED where it was."""

    code: int | str
    n_steps: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A folder with a spec, in which sweeps are made and commands killed."""

    root: Path
    has_processes: bool

    @property
    def sweep(self) -> Path:
        """The sweep's folder."""
        return self.root / "sweeps" / NAME

    def spec(self, *, layers: Sequence[int] = (0,)) -> Path:
        """A spec of two jobs, each of a cell a layer."""
        grid = {"experiments": ["left_boundary", "bracket_identity"], "layers": list(layers), "positions": 81}
        changes = {"model": {"path": str(DEMO_MODEL), "dtype": "float32"}, "grid": grid, "local": {"workers": 2}}
        path = self.root / f"layers-{len(layers)}.yaml"
        path.write_text(to_yaml(raw_spec(**changes)), encoding="utf-8")
        return path

    def do(self, *arguments: str, kill_at: int = 0, starts: bool = True) -> Ended:
        """A command in a process of its own, killed before step `kill_at`; where it `starts` jobs they end at once."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(reading)
                os.write(writing, json.dumps(self._run(arguments, kill_at, starts)).encode()[-60_000:])
            finally:
                os._exit(0)
        os.close(writing)
        with open(reading, "rb") as pipe:
            said = pipe.read()
        os.waitpid(pid, 0)
        return Ended(**json.loads(said)) if said else Ended(code=KILLED)

    def _run(self, arguments: Sequence[str], kill_at: int, starts: bool) -> dict[str, Any]:
        os.environ["CAUSALSWEEP_SWEEPS"] = str(self.root / "sweeps")
        steps = Steps(self.root, kill_at)
        if not self.has_processes or not starts:
            self._replace_dispatcher(steps, starts)
        _stub_jobs()
        code, out, err = run(arguments)
        steps.is_on = False
        return {"code": code, "n_steps": steps.n, "text": (out + err)[-2000:]}

    def _replace_dispatcher(self, steps: Steps, starts: bool) -> None:
        def ensure(folder: Path) -> None:
            sys.audit("subprocess.Popen", "dispatcher", [], None, None)
            steps.is_on, was_on = False, steps.is_on
            if starts:
                drain(folder)
            steps.is_on = was_on

        local.ensure_dispatcher = ensure
        processes.ensure_dispatcher = ensure


def _stub_jobs() -> None:
    real = submit.request_of

    def stubbed(*arguments: Any) -> Any:
        request = real(*arguments)
        return replace(request, argv=(sys.executable, "-m", "tests.stub_worker", request.argv[-1]))

    submit.request_of = stubbed


def drain(folder: Path, *, most: int | None = None) -> None:
    """Run the jobs that wait and may start, at most this number, in this process."""
    queue = LocalFiles(folder)
    for handle in list(queue.startable())[:most] if queue.limit() != 0 else []:
        request = queue.request(handle)
        record = RunnerRecord(runner=ProcessId.of(os.getpid()), slots=(0,), gpu="", started=time.time())
        if request is not None and queue.claim(handle, record):
            code = 0
            try:
                finish(Job.load(Path(request.argv[-1])))
            except (OSError, ValueError):  # as a worker ends on a job file that it cannot read
                code = EXIT_BAD_INPUT
            queue.put_run(handle, replace(record, ended=time.time(), exit_code=code))


# What is tried ------------------------------------------------------------------------------------------------------


def _new(bench: Bench) -> None:
    """No sweep yet."""


def waiting(bench: Bench) -> None:
    """Two jobs that wait."""
    _well(bench.do("submit", str(bench.spec()), starts=False))


def cancelled(bench: Bench) -> None:
    """Two jobs that were cancelled before they started."""
    waiting(bench)
    _well(bench.do("cancel", NAME, starts=False))


def held(bench: Bench) -> None:
    """Two jobs that are held."""
    waiting(bench)
    _well(bench.do("hold", NAME, starts=False))


def done(bench: Bench) -> None:
    """All cells have rows."""
    _well(bench.do("run", str(bench.spec()), "--poll-s", "0.05"))


def _well(ended: Ended) -> None:
    assert ended.code == 0, ended.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A command, the sweep that it meets, and what a user does when it was killed."""

    before: Callable[[Bench], None]
    command: tuple[str, ...]  # SPEC and GROWN stand for spec files
    then: tuple[tuple[str, ...], ...]  # the commands that must end with 0 afterwards
    starts: bool = False
    n_cells: int = 2


_RUN: Final = ("run", NAME, "--poll-s", "0.05")
TRIALS: Final[Mapping[str, Trial]] = {
    "submit": Trial(before=_new, command=("submit", "SPEC"), then=(("RESUME",), _RUN)),
    "submit again": Trial(before=_new, command=("submit", "SPEC"), then=(("submit", "SPEC"), _RUN)),
    "run": Trial(before=_new, command=("run", "SPEC", "--poll-s", "0.05"), then=(("RESUME",), _RUN), starts=True),
    "grow": Trial(
        before=done, command=("submit", "GROWN"), then=(("resume", NAME), ("submit", "GROWN"), _RUN), n_cells=4
    ),
    "resume": Trial(before=cancelled, command=("resume", NAME), then=(("resume", NAME), _RUN)),
    "cancel": Trial(before=waiting, command=("cancel", NAME), then=(("cancel", NAME), ("resume", NAME), _RUN)),
    "cancel at once": Trial(before=waiting, command=("cancel", NAME, "--at-once"), then=(("resume", NAME), _RUN)),
    "hold": Trial(before=waiting, command=("hold", NAME), then=(("hold", NAME), ("release", NAME), _RUN)),
    "release": Trial(before=held, command=("release", NAME), then=(("release", NAME), _RUN)),
    "limit": Trial(before=waiting, command=("limit", NAME, "1"), then=(("limit", NAME, "none"), _RUN)),
    "check": Trial(before=done, command=("check", NAME), then=(("check", NAME),)),
    "results": Trial(before=done, command=("results", NAME), then=(("results", NAME),)),
    "report": Trial(before=done, command=("report", NAME), then=(("report", NAME),)),
}


def tried(name: str, root: Path, *, stride: int = 1, offset: int = 0, has_processes: bool = False) -> Iterator[str]:
    """What went wrong when the command of trial `name` was killed, at each step or each `stride`-th; none is well."""
    trial, bench = TRIALS[name], Bench(root=root / "bench", has_processes=has_processes)
    bench.root.mkdir(parents=True)
    bench.spec(), bench.spec(layers=(0, 1))
    trial.before(bench)
    if name in ("check", "results", "report"):  # there is something to gather
        shutil.rmtree(bench.sweep / "store")
    whole = root / "whole"
    shutil.copytree(bench.root, whole)
    ended = bench.do(*_words(bench, trial.command), starts=trial.starts)
    _well(ended)
    assert ended.n_steps > 0, f"{name} has no side effect"
    for step in range(1 + offset % stride, ended.n_steps + 1, stride):
        shutil.rmtree(bench.root)  # at the same path: a copy would be a sweep of its own
        shutil.copytree(whole, bench.root)
        killed = bench.do(*_words(bench, trial.command), kill_at=step, starts=trial.starts)
        where = f"{name}, killed before step {step} of {ended.n_steps}"
        if killed.code not in (KILLED, 0):  # a step that another run did not have
            yield f"{where}: exit {killed.code}: {killed.text}"
        yield from (f"{where}: {fault}" for fault in _afterwards(bench, trial))


def _words(bench: Bench, words: Sequence[str]) -> list[str]:
    if words == ("RESUME",):  # what a user gives who sees that there is a sweep, or that there is none
        there = (bench.sweep / "sweep.yaml").exists() or (bench.sweep / "cells.parquet").exists()
        words = ("resume", NAME) if there else ("submit", "SPEC")
    specs = {"SPEC": bench.root / "layers-1.yaml", "GROWN": bench.root / "layers-2.yaml"}
    return [str(specs.get(word, word)) for word in words]


def _afterwards(bench: Bench, trial: Trial) -> Iterator[str]:
    """What is wrong with the next commands, and with the sweep after them."""
    for command in (*trial.then, ("check", NAME)):
        words = _words(bench, command)
        ended = bench.do(*words)
        if ended.code != 0:
            yield f"`{' '.join(words)}`: exit {ended.code}: {ended.text}"
            return
    keys = [key for path in (bench.sweep / "shards").glob("*.parquet") for key in _keys(path)]
    if len(keys) != trial.n_cells or len(set(keys)) != trial.n_cells:
        yield f"{len(keys)} rows of {len(set(keys))} cells, {trial.n_cells} planned"


def _keys(path: Path) -> list[str]:
    keys: list[str] = pq.read_table(path)["cell_key"].to_pylist()
    return keys


def main() -> int:
    """Try the commands and print a line for each; 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(TRIALS)}; default: all")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--processes", action="store_true")
    options = parser.parse_args()
    os.environ["COLUMNS"] = "200"
    n_faults = 0
    for name in options.names or TRIALS:
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            faults = list(tried(name, Path(folder), stride=options.stride, has_processes=options.processes))
        n_faults += len(faults)
        print("\n".join([*faults, f"{name}: {len(faults)} faults in {time.monotonic() - began:.0f} s"]), flush=True)
    return int(bool(n_faults))


if __name__ == "__main__":
    sys.exit(main())
