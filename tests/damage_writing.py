"""Every file of a sweep's folder damaged, and what each command that writes makes of it: a part of tests/damage.py.

Three sweeps on the local backend, with jobs that wait, that are half done, and that are done. A command on one with a
damaged file ends with 0, 1 or 2 and without a traceback, and names the file or the sweep where it refuses. It changes
no result, checkpoint or alignment that is whole, and it runs no cell again that has a row.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
from safetensors import SafetensorError

from tests.damage import DAMAGES, Case, Outcome
from tests.steps import NAME, Bench, done, drain, waiting
from workers.files.shard import read_shard

WRITING: Final[Mapping[str, tuple[str, ...]]] = {
    "submit": ("submit", "SPEC"),
    "resume": ("resume", NAME),
    "cancel": ("cancel", NAME, "--yes"),
    "hold": ("hold", NAME, "--yes"),
    "release": ("release", NAME, "--yes"),
    "limit": ("limit", NAME, "1"),
}
_RESULTS: Final = ("shards", "alignments", "checkpoints")


def _half_done(bench: Bench) -> None:
    """One job is done and one waits."""
    waiting(bench)
    drain(bench.sweep, most=1)


STATES: Final[Mapping[str, Callable[[Bench], None]]] = {"waiting": waiting, "half done": _half_done, "done": done}


@dataclass(slots=True)
class Ground:
    """Sweeps in each state, and the place where a case is tried: always the same, as a copy is a sweep of its own."""

    root: Path
    states: dict[str, Path] = field(default_factory=dict)  # the bench's folder in each state, kept aside

    @property
    def bench(self) -> Bench:
        """Where the sweep is put."""
        return Bench(root=self.root / "bench", has_processes=False)

    def prepare(self) -> None:
        """Make the sweeps."""
        for name, make in STATES.items():
            self.bench.root.mkdir(parents=True)
            self.bench.spec()
            make(self.bench)
            self.states[name] = self.bench.root.rename(self.root / name)

    def put(self, state: str) -> None:
        """Put the sweep of this state in its place."""
        shutil.rmtree(self.bench.root, ignore_errors=True)
        shutil.copytree(self.states[state], self.bench.root)

    def cases(self, seed: int) -> list[Case]:
        """Every damage of every file in each state; `sweep` is the state's folder."""
        found = []
        for folder in self.states.values():
            sweep = folder / "sweeps" / NAME
            for path in sorted(path for path in sweep.rglob("*") if path.is_file()):
                file = str(path.relative_to(sweep))
                found += [Case(sweep=folder, file=file, damage=damage, seed=seed) for damage in DAMAGES]
        return found

    def tried(self, case: Case, command: str) -> Outcome:
        """What a command makes of a case."""
        self.put(case.sweep.name)
        path = self.bench.sweep / case.file
        with contextlib.suppress(ValueError, SafetensorError, TypeError):  # an empty file has no bit to flip
            DAMAGES[case.damage](path, random.Random(f"{case.file} {case.damage} {case.seed}"))
        before, rows = _results(self.bench.sweep), _rows(self.bench.sweep)
        words = [str(self.bench.root / "layers-1.yaml") if word == "SPEC" else word for word in WRITING[command]]
        ended = self.bench.do(*words)
        outcome = Outcome(codes={command: ended.code})
        outcome.faults = list(_faults(case, command, ended.code, ended.text))
        after = _results(self.bench.sweep)
        outcome.faults += [f"{command}: changed {name}" for name in before if after.get(name) != before[name]]
        again = [name for name, keys in _rows(self.bench.sweep).items() if name not in rows and keys & _all(rows)]
        outcome.faults += [f"{command}: ran cells again that have rows: {name}" for name in again]
        return outcome


def _faults(case: Case, command: str, code: int | str, text: str) -> Iterator[str]:
    if code not in (0, 1, 2):
        yield f"{command}: {code}\n{text}"
    elif "Traceback" in text:
        yield f"{command}: a traceback\n{text}"
    elif code == 2 and Path(case.file).name not in text and NAME not in text:
        yield f"{command}: the error does not name the file:\n{text}"


def _results(sweep: Path) -> dict[str, bytes]:
    """The files that hold what was computed."""
    files = (path for name in _RESULTS for path in (sweep / name).rglob("*") if path.is_file())
    return {str(path.relative_to(sweep)): path.read_bytes() for path in files}


def _rows(sweep: Path) -> dict[str, set[str]]:
    """The cells of each shard that is whole."""
    found = {}
    for path in (path for path in (sweep / "shards").glob("r*.parquet") if path.is_file() and "(" not in path.name):
        try:
            shard = read_shard(path)
        except ValueError:  # a newer version's
            continue
        if isinstance(shard, pa.Table):
            found[path.name] = set(shard["cell_key"].to_pylist())
    return found


def _all(rows: Mapping[str, set[str]]) -> set[str]:
    return {key for keys in rows.values() for key in keys}


def writing_campaign(
    root: Path, *, seed: int, n_cases: int, commands: Sequence[str] = tuple(WRITING)
) -> Iterator[tuple[Case, Outcome]]:
    """Cases with each command's outcome: a seeded choice of `n_cases`; 0: all."""
    ground = Ground(root)
    ground.prepare()
    chosen = ground.cases(seed)
    if n_cases:
        chosen = random.Random(seed).sample(chosen, n_cases)
    for case in chosen:
        for command in commands:
            yield case, ground.tried(case, command)
