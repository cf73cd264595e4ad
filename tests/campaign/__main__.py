"""`python -m tests.campaign --backend local --faults 100 --seed 1`: the table of what the faults cost."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.campaign.episode import Episode, play, undisturbed
from tests.campaign.grounds import ground
from tests.campaign.oracle import Verdict
from tests.testbeds import take_down

_A_EPISODE: Final = 6  # faults


def campaign(backend: str, n_faults: int, seed: int, *, keep: bool, log: Path | None) -> list[Episode]:
    """The episodes of a campaign of `n_faults` faults, printed one line each as they end."""
    place = ground(backend)
    expected = undisturbed(place, backend)
    episodes: list[Episode] = []
    left = n_faults
    while left > 0:
        name = f"{backend}-{seed}-{len(episodes)}"
        one = play(place, backend, seed=name, n_faults=min(left, _A_EPISODE), expected=expected, keep=keep)
        episodes.append(one)
        left -= max(1, len(one.faults))
        print(f"{name}: {len(one.faults)} faults, {one.seconds:.0f} s, {_short(one.verdict)}", flush=True)
        if log:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(one)) + "\n")
    return episodes


def assert_clean(backend: str, n_faults: int, seed: int) -> None:
    """A campaign of `n_faults` faults or more, none of which cost anything but time. Raises: AssertionError."""
    episodes = campaign(backend, n_faults, seed, keep=False, log=None)
    assert sum(len(one.faults) for one in episodes) >= n_faults
    for one in episodes:
        assert one.verdict.is_clean, (one.seed, one.faults, one.verdict, *one.said)


def _short(verdict: Verdict) -> str:
    counts = {name: value for name, value in asdict(verdict).items() if value and name != "repeated_s"}
    return (str(counts) if counts else "clean") + f", {verdict.repeated_s:.1f} s repeated"


def table(episodes: Sequence[Episode]) -> Table:
    """Faults by kind, and below them the sums of the verdicts."""
    shown = Table("fault", "times")
    for name, count in sorted(Counter(fault for one in episodes for fault in one.faults).items()):
        shown.add_row(name, str(count))
    total = sum((one.verdict for one in episodes), Verdict())
    n_faults = sum(len(one.faults) for one in episodes)
    shown.add_section()
    shown.add_row("all", str(n_faults))
    for name, value in asdict(total).items():
        shown.add_row(name.replace("_", " "), f"{value:.1f}" if isinstance(value, float) else str(value))
    shown.add_row("repeated s a fault", f"{total.repeated_s / max(n_faults, 1):.2f}")
    return shown


def main(arguments: Sequence[str]) -> int:
    """0 when every episode is clean."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--backend", choices=("local", "slurm", "ray"), default="local")
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", action="store_true", help="keep the folders of the episodes")
    parser.add_argument("--log", type=Path, help="append each episode to this file, as JSON")
    chosen = parser.parse_args(arguments)
    try:
        episodes = campaign(chosen.backend, chosen.faults, chosen.seed, keep=chosen.keep, log=chosen.log)
    finally:
        take_down()
    Console().print(table(episodes))
    return 0 if all(one.verdict.is_clean for one in episodes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
