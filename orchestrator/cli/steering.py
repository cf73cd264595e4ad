"""cancel, hold, release, limit."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.options import DEFAULT_SWEEPS, Json, Source, Sweeps, Where, Yes, bounded, load, print_json
from orchestrator.wording import counted

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
    n_jobs: Annotated[str, typer.Argument(metavar="[N|none]", help="The number of jobs that may run at once.")] = "",
    gpu_hours: Annotated[
        str, typer.Option("--gpu-hours", metavar="H|none", help="GPU-hours that the sweep may spend in all.")
    ] = "",
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Change how many jobs run at once, or what the sweep may spend, also while jobs run.

    Once the GPU-hours are spent, over all backends and submissions, nothing new begins; what runs is finished.

    \b
    causalsweep limit demo 4
    causalsweep limit demo none
    causalsweep limit demo --gpu-hours 200
    """
    from orchestrator.errors import SpecError

    if not n_jobs and not gpu_hours:
        raise SpecError("limit: got nothing to limit; give a number of jobs, or --gpu-hours H")
    document = _limit_hours(source, gpu_hours, sweeps, as_json) if gpu_hours else {}
    if n_jobs:
        document |= _limit_jobs(source, n_jobs, sweeps, as_json)
    if as_json:
        print_json(document)


def _limit_hours(source: str, gpu_hours: str, sweeps: Path, as_json: bool) -> dict[str, Any]:
    from orchestrator.errors import SpecError

    try:
        hours = None if gpu_hours == "none" else float(gpu_hours)
    except ValueError:
        raise SpecError(f"--gpu-hours: got {gpu_hours!r}; expected a number of hours, or `none`") from None
    wanted = None if hours is None else bounded("--gpu-hours", hours, "GpuHours")
    sweep = load(source, sweeps)
    sweep.limit_gpu_hours(wanted)
    if not as_json:
        said = "as many GPU-hours as it takes" if wanted is None else f"at most {wanted:g} GPU-hours"
        print(f"limit: {said} for {sweep.spec.name}, over all backends and submissions")
    return {"gpu_hours": wanted}


def _limit_jobs(source: str, n_jobs: str, sweeps: Path, as_json: bool) -> dict[str, Any]:
    from orchestrator.errors import SpecError

    if n_jobs != "none" and not re.fullmatch(r"[0-9]{1,18}", n_jobs):
        raise SpecError(f"limit: got {n_jobs!r}; expected a number of jobs, or `none`")
    wanted = None if n_jobs == "none" else bounded("limit", int(n_jobs), "JobLimit")
    sweep = load(source, sweeps)
    backends = sweep.limit(wanted)
    if not as_json:
        number = "as many jobs as fit" if wanted is None else f"at most {counted(wanted, 'job')}"
        print(f"limit: {number} of {sweep.spec.name} at once, on {' and '.join(backends)}; running jobs continue")
    return {"limit": wanted, "backends": list(backends)}


def _steer(source: str, action: object, where: list[str] | None, yes: bool, sweeps: object, as_json: bool) -> None:
    from cluster.backend import Control, JobState
    from orchestrator.errors import SpecError

    assert isinstance(action, Control)
    sweep = load(source, Path(str(sweeps)))
    jobs = sweep.jobs(where or ())
    meant = {Control.HOLD: (JobState.PENDING,), Control.RELEASE: (JobState.HELD,)}.get(action, tuple(JobState))
    names = [job.name for job in jobs if job.state in meant]
    if len(names) > ASK_ABOVE and not yes:
        question = f"{action} {counted(len(names), 'job')} of {sweep.spec.name}?"
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
            f"{action}: {counted(len(names), 'job')}"
            + (f" ({', '.join(names[:8])}{' ...' if len(names) > 8 else ''})" if names else "")
        )
