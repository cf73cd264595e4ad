"""cancel, hold, release, limit."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from orchestrator.cli.options import DEFAULT_SWEEPS, Json, Source, Sweeps, Where, Yes, bounded, load, print_json

ASK_ABOVE = 10


def cancel(
    source: Source,
    where: Where = None,
    at_once: Annotated[bool, typer.Option("--at-once", help="Do not wait for a checkpoint.")] = False,
    yes: Yes = False,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Stop jobs. Running jobs write a checkpoint first, and `resume` continues from it.

    More than ten jobs need a confirmation. --where chooses the jobs whose unfinished cells all match.

    \b
    causalsweep cancel demo
    causalsweep cancel demo --where experiment=bracket_identity --yes
    """
    from cluster.backend import Control

    _steer(source, Control.KILL if at_once else Control.CANCEL, where, yes, sweeps, as_json)


def hold(
    source: Source, where: Where = None, yes: Yes = False, sweeps: Sweeps = DEFAULT_SWEEPS, as_json: Json = False
) -> None:
    """Keep waiting jobs from starting. Running jobs continue.

    \b
    causalsweep hold demo --where seed=66
    """
    from cluster.backend import Control

    _steer(source, Control.HOLD, where, yes, sweeps, as_json)


def release(
    source: Source, where: Where = None, yes: Yes = False, sweeps: Sweeps = DEFAULT_SWEEPS, as_json: Json = False
) -> None:
    """Let held jobs start.

    \b
    causalsweep release demo
    """
    from cluster.backend import Control

    _steer(source, Control.RELEASE, where, yes, sweeps, as_json)


def limit(
    source: Source,
    n_jobs: Annotated[str, typer.Argument(metavar="N|none", help="The number of jobs that may run at once.")],
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Change how many jobs run at once, also while they run.

    \b
    causalsweep limit demo 4
    causalsweep limit demo none
    """
    from orchestrator.errors import SpecError

    if n_jobs != "none" and not re.fullmatch(r"[0-9]{1,18}", n_jobs):
        raise SpecError(f"limit: got {n_jobs!r}; expected a number of jobs, or `none`")
    wanted = None if n_jobs == "none" else bounded("limit", int(n_jobs), "JobLimit")
    sweep = load(source, sweeps)
    backends = sweep.limit(wanted)
    if as_json:
        print_json({"limit": wanted, "backends": list(backends)})
    else:
        number = "as many jobs as fit" if wanted is None else f"at most {wanted} jobs"
        print(f"limit: {number} of {sweep.spec.name} at once, on {' and '.join(backends)}; running jobs continue")


def _steer(source: str, action: object, where: list[str] | None, yes: bool, sweeps: object, as_json: bool) -> None:
    from pathlib import Path

    from cluster.backend import Control, JobState
    from orchestrator.errors import SpecError

    assert isinstance(action, Control)
    sweep = load(source, Path(str(sweeps)))
    jobs = sweep.jobs(where or ())
    meant = {Control.HOLD: (JobState.PENDING,), Control.RELEASE: (JobState.HELD,)}.get(action, tuple(JobState))
    names = [job.name for job in jobs if job.state in meant]
    if len(names) > ASK_ABOVE and not yes:
        question = f"{action} {len(names)} jobs of {sweep.spec.name}?"
        try:
            agreed = typer.confirm(question)
        except typer.Abort:  # the input ended
            if sys.stdin.isatty():
                raise
            raise SpecError(f"{question} There is no terminal to answer at: add --yes") from None
        if not agreed:
            raise typer.Abort
    sweep.control(action, jobs)
    if as_json:
        print_json({"action": str(action), "jobs": names})
    else:
        print(
            f"{action}: {len(names)} jobs"
            + (f" ({', '.join(names[:8])}{' ...' if len(names) > 8 else ''})" if names else "")
        )
