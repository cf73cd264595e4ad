"""One episode: a sweep, some faults at random moments, then whatever a person would type until it is done."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from tests.campaign.arena import NAME, Arena, Overlaps
from tests.campaign.grounds import Ground, folder
from tests.campaign.oracle import Verdict, judge

MAX_RESUMES: Final = 40  # a sweep that is not done after these is counted as lost
_DISK_BYTES: Final = 96 << 20  # size of the small file system that an episode on this machine may fill up


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What happened: the faults that met something, in order, and the verdict."""

    seed: str
    faults: tuple[str, ...]
    verdict: Verdict
    seconds: float
    said: tuple[str, ...]  # every command with its exit code, and the output of those that went wrong


def play(
    ground: Ground, backend: str, *, seed: str, n_faults: int, expected: pd.DataFrame, keep: bool = False
) -> Episode:
    """One episode with `n_faults` faults that meet something. `seed` decides which, when and on what."""
    rng, started = random.Random(seed), time.monotonic()
    with folder(backend, keep=keep) as root, _small_disk(root, wanted=backend == "local" and rng.random() < 0.5):
        arena = Arena(root=root, backend=backend, options=ground.options, env=ground.env)
        arena.write_spec()
        with Overlaps(arena) as overlaps:
            hit = list(_disturb(arena, ground, rng, n_faults))
            _finish(arena, ground)
        verdict = judge(arena, expected, overlaps.found)
        return Episode(
            seed=seed,
            faults=tuple(hit),
            verdict=verdict,
            seconds=time.monotonic() - started,
            said=tuple(_told(arena)),
        )


def undisturbed(ground: Ground, backend: str) -> pd.DataFrame:
    """The rows of the same sweep, left alone."""
    with folder(backend, keep=False) as root:
        arena = Arena(root=root, backend=backend, options=ground.options, env=ground.env)
        arena.write_spec()
        said = arena.command("run", f"{NAME}.yaml", "--on", backend)
        if said.code != 0:
            raise RuntimeError(f"the undisturbed sweep ended with {said.code}:\n{said.output}")
        return arena.sweep().results()


def _disturb(arena: Arena, ground: Ground, rng: random.Random, n_faults: int) -> Iterator[str]:
    """Submit, then one fault after the other; the names of those that met something."""
    kill_after_s = rng.uniform(0.3, 3.0) if rng.random() < 0.3 else None
    arena.command("submit", f"{NAME}.yaml", "--on", arena.backend, kill_after_s=kill_after_s)
    if kill_after_s is not None:
        yield "first submit killed"
        n_faults -= 1
    names, n_tries = sorted(ground.faults), 0
    while n_faults > 0 and n_tries < 20 * n_faults + 20:
        n_tries += 1
        time.sleep(rng.uniform(0.0, 4.0))
        name = rng.choice(names)
        if arena.folder.root.exists() and ground.faults[name](arena, rng):
            n_faults -= 1
            yield name
        if rng.random() < 0.5:
            _go_on(arena, ground)


def _go_on(arena: Arena, ground: Ground) -> int | None:
    """The next natural command: `resume`, or `submit` where nothing was submitted yet. Its exit code."""
    ground.mend()
    said = arena.command("resume", NAME, "--on", arena.backend)
    if said.code == 2:
        said = arena.command("submit", f"{NAME}.yaml", "--on", arena.backend)
    return said.code


def _finish(arena: Arena, ground: Ground) -> None:
    """Resume until `check` says that all is done, and the processes have ended."""
    for _ in range(MAX_RESUMES):
        _go_on(arena, ground)
        _wait(lambda: _is_quiet(arena, ground), limit_s=180.0)
        if arena.command("check", NAME).code == 0:
            break
    _wait(lambda: not list(arena.processes()), limit_s=30.0)


def _is_quiet(arena: Arena, ground: Ground) -> bool:
    if not arena.folder.cells.exists():
        return True
    ground.mend()
    return arena.sweep().status().is_quiet


def _wait(condition: Callable[[], bool], *, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.5)


@contextmanager
def _small_disk(root: Path, *, wanted: bool) -> Iterator[None]:
    """A small file system over `root`, so that it can be filled up. Needs root."""
    if not wanted:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "none", str(root)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


def _told(arena: Arena) -> Iterator[str]:
    for said in arena.said:
        line = f"{' '.join(said.arguments)} -> {said.code}"
        wrong = said.code is not None and (said.code not in (0, 1) or "Traceback" in said.output)
        yield f"{line}\n{said.output.strip()[-3000:]}" if wrong else line
