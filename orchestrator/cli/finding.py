"""init, list, methods: what there is to work with, and a first spec."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.options import DEFAULT_SWEEPS, Json, Sweeps, print_json


def init(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint's folder, or a name of the Hub that is in the cache.")
    ],
    task: Annotated[
        str,
        typer.Option("--task", metavar="TASK", help="A Python file, a file of pairs or a built-in task; else new."),
    ] = "",
    slurm: Annotated[
        str, typer.Option("--slurm", metavar="KEY=VALUE,...", help="Options of sbatch: partition=gpu,account=abc.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="The sweep's name, and the spec's. Default: the model's.")] = "",
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="The folder to write to. Default: this one.")
    ] = Path(),
    as_json: Json = False,
) -> None:
    """Write a spec for a model, and a task file to change into yours. Both work as they are.

    Layers are spread over the model, positions are taken from the task's prompt, and the number of training pairs is
    what the plan says fits into two hours. No network is used, and no file is overwritten.

    \b
    causalsweep init /models/llama-7b
    causalsweep init gpt2 --task pairs.jsonl --slurm partition=gpu,account=abc
    """
    from orchestrator.drafting.draft import draft

    made = draft(model, task=task, slurm=slurm, name=name, folder=output)
    if as_json:
        from orchestrator.cli.documents import plan_document

        files = [str(path) for path in (made.spec, made.task) if path]
        print_json({"files": files, "notes": made.notes, "next": made.commands, "plan": plan_document(made.plan)})
        return
    from orchestrator.cli.render import draft_view, out

    out.print(draft_view(made))


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
