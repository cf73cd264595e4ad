"""prompt, plan, run, submit, resume."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.registry import DEFAULT_BACKEND
from orchestrator.cli.options import (
    DEFAULT_SWEEPS,
    Auto,
    Json,
    On,
    Reuse,
    Set,
    Source,
    Sweeps,
    WhereToRun,
    bounded,
    load,
    print_json,
)

if TYPE_CHECKING:
    from orchestrator.plan.plan import Plan
    from orchestrator.status.states import SweepStatus
    from orchestrator.sweep import Sweep


def prompt(
    source: Source,
    experiment: Annotated[str, typer.Option(help="The experiment whose task is shown. Default: the first.")] = "",
    draw: Annotated[int, typer.Option(help="The number of the prompt to draw.")] = 0,
    model: Annotated[str, typer.Option(help="The model of grid.models that reads it. Default: the first.")] = "",
    sets: Set = None,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Show a prompt token by token, with the names for `grid.positions`.

    \b
    causalsweep prompt examples/demo.yaml
    causalsweep prompt examples/arithmetic.yaml --draw 3
    """
    from dataclasses import asdict

    from orchestrator.folder import find
    from orchestrator.grid.prompt_preview import example_prompt

    bounded("--draw", draw, "CountOrNone")
    made = example_prompt(find(source, sweeps, list(sets or ())).spec, experiment=experiment, draw=draw, model=model)
    if as_json:
        print_json(asdict(made))
        return
    from orchestrator.cli.render import out, prompt_view

    out.print(prompt_view(made))


def plan(source: Source, on: On = "", sets: Set = None, sweeps: Sweeps = DEFAULT_SWEEPS, as_json: Json = False) -> None:
    """Show cells, jobs, GPU-hours and makespan. Write nothing.

    Without --on it plans for this machine, where `run` goes without --on, and also for the spec's `cluster:`.

    \b
    causalsweep plan examples/demo.yaml --on local
    causalsweep plan examples/alpaca-7b.yaml --set model.path=/models/alpaca-7b --set engine=reference
    """
    plans = _plans(load(source, sweeps, sets), on)
    if as_json:
        from orchestrator.cli.documents import plan_document

        main, *others = map(plan_document, plans.values())
        print_json(main | {"cluster": others[0] if others else None})
        return
    from orchestrator.cli.render import out, plan_view

    for number, (where, made) in enumerate(plans.items()):
        out.print(*([""] if number else []), plan_view(made, where=where, with_cells=not number), sep="\n")


def _plans(sweep: Sweep, on: str) -> dict[str, Plan]:
    """The plan for `on`; or for this machine and the spec's cluster, by what to say of each. Raises: SpecError.

    A sweep that this machine cannot run, for lack of GPUs, is planned for its cluster alone.
    """
    from orchestrator.errors import SpecError

    if on or sweep.spec.cluster is None:
        return {"": sweep.plan(on=on or DEFAULT_BACKEND)}
    there = {"the spec's cluster: run with --on slurm or --on ray": sweep.plan()}
    try:
        return {"this machine: run without --on": sweep.plan(on=DEFAULT_BACKEND)} | there
    except SpecError:
        return there


def submit(
    source: Source,
    on: On = "local",
    sets: Set = None,
    reuse: Reuse = None,
    auto: Auto = False,
    where: WhereToRun = None,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Submit a sweep's jobs to a backend and return. Nothing keeps running here.

    \b
    causalsweep submit sweep.yaml --on slurm --auto
    causalsweep submit sweep.yaml --where layer=0..7
    causalsweep submit sweep.yaml --on ray --set ray.address=http://127.0.0.1:8265
    """
    sweep = load(source, sweeps, sets)
    _print_receipt(sweep, sweep.submit(on=on, reuse=reuse or (), auto=auto, where=where or ()), as_json)


def resume(
    source: Source,
    on: On = "",
    auto: Auto = False,
    force: Annotated[bool, typer.Option("--force", help="Resume even if one bug has ended several jobs.")] = False,
    sets: Set = None,
    where: WhereToRun = None,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Submit cells that are missing or failed, but none that are running or done. --on may name another backend.

    With --auto, submit only cells whose retry may succeed, and a follow-up job after them.

    \b
    causalsweep resume demo
    causalsweep resume demo --where experiment=left_boundary
    causalsweep resume demo --on ray --set ray.address=http://127.0.0.1:8265
    """
    from orchestrator.jobs.retry import Mode

    sweep = load(source, sweeps, sets)
    mode = Mode.AUTO if auto else Mode.RESUME
    receipt = sweep.resume(on=on, mode=mode, auto=auto, force=force, where=where or ())
    _print_receipt(sweep, receipt, as_json)


def run(
    source: Source,
    on: On = "local",
    sets: Set = None,
    reuse: Reuse = None,
    where: WhereToRun = None,
    poll_s: Annotated[float, typer.Option(help="Seconds between two checks of the jobs.")] = 2.0,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Submit, show a live table, and retry what may succeed. Exit code 0 when every cell is done, or with --where
    every one that matches.

    Ctrl-C once: the workers write checkpoints and stop. Ctrl-C twice: they stop at once. `run` or `resume` continues.

    \b
    causalsweep run examples/demo.yaml
    causalsweep run examples/demo.yaml --set data.n_train=2000 --set name=quick
    """
    bounded("--poll-s", poll_s, "SecondsOrNone")
    sweep = load(source, sweeps, sets)
    sweep.submit(on=on, reuse=reuse or (), where=where or ())
    status = _wait(sweep, poll_s=poll_s, quiet=as_json, where=where or ())
    if as_json:
        from orchestrator.cli.documents import status_document

        print_json(status_document(status))
    sys.exit(0 if sweep.is_settled(status, where or ()) else 1)


def _wait(sweep: Sweep, *, poll_s: float, quiet: bool, where: Sequence[str]) -> SweepStatus:
    """The last status, after waiting with a live view. Ctrl-C stops the jobs; a second one stops them at once."""
    from cluster.backend import Control
    from orchestrator.cli.ending import ending
    from orchestrator.cli.render import out
    from orchestrator.cli.watching import Display

    n_interrupts, started = 0, time.monotonic()
    with Display(quiet=quiet) as display:
        while True:
            try:
                for status in sweep.watch(poll_s=poll_s, heal=n_interrupts == 0, where=where):
                    display.show(status)
                break
            except KeyboardInterrupt:
                n_interrupts += 1
                action = Control.CANCEL if n_interrupts == 1 else Control.KILL
                sweep.control(action, sweep.jobs())
                display.say("stopping: the workers write checkpoints; Ctrl-C again stops them at once")
    if not quiet:
        out.print(ending(sweep, status, wall_s=time.monotonic() - started, was_stopped=n_interrupts > 0))
    return status


def _print_receipt(sweep: Sweep, receipt: object, as_json: bool) -> None:
    from orchestrator.cli.documents import receipt_document
    from orchestrator.cli.render import out, receipt_view
    from orchestrator.jobs.submit import Receipt

    assert isinstance(receipt, Receipt)
    if as_json:
        print_json(receipt_document(receipt))
    else:
        out.print(receipt_view(receipt, sweep.spec.name))
