"""list, methods: what there is to work with."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from orchestrator.cli.options import DEFAULT_SWEEPS, Json, Sweeps, print_json


def list_sweeps(sweeps: Sweeps = DEFAULT_SWEEPS, as_json: Json = False) -> None:
    """List the sweeps of a folder: state, cells done, and the time since the last one was written.

    \b
    causalsweep list
    causalsweep list --sweeps /scratch/me/sweeps
    """
    from orchestrator.listing import listed

    found = listed(sweeps)
    if as_json:
        from dataclasses import asdict

        print_json([asdict(line) for line in found])
        return
    if not found:
        print(f"no sweeps in {sweeps.resolve()}; begin with: causalsweep run examples/demo.yaml")
        return
    from orchestrator.cli.render import duration, out, sweeps_view

    now = time.time()
    ages = [duration(now - line.changed) if line.changed else "" for line in found]
    out.print(sweeps_view(found, ages))


def methods(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="One of them, to be described in full.")] = "",
    as_json: Json = False,
) -> None:
    """List the methods with their settings and defaults, or describe one in full.

    \b
    causalsweep methods
    causalsweep methods boundless_das
    """
    from orchestrator.cli.method_pages import described, method_lines

    found = described(name)
    if as_json:
        print_json(found)
    else:
        print("\n".join(method_lines(found, in_full=bool(name))))
