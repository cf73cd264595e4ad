"""explain, fsck: why a cell is in its state, and whether the files agree."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from orchestrator.cli.options import DEFAULT_SWEEPS, Json, Source, Sweeps, Where, bounded, load, print_json


def explain(
    source: Source,
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="Cell keys, or the first digits of some.")
    ] = None,
    where: Where = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="SWEEP", help="Compare cells without rows with this sweep's. Repeatable."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", help="Explain only the first N cells; 0: all.")] = 10,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Say why cells are done, missing, skipped or failed, and whether they would run again.

    Each cell is shown with its rows and shards, its jobs with their attempts and ends, and what `resume` would do. A
    cell without rows is compared, field by field, with the nearest one that has rows under another key.
    Exit code 0: all of them are settled; 1: one is not; 2: bad input, or no such cell.

    \b
    causalsweep explain demo 3f2a91c0
    causalsweep explain demo --where layer=2 --where seed=42
    causalsweep explain demo-2 --where position=81 --against demo
    """
    from orchestrator.audit.explain import explain as explained
    from orchestrator.cli.audit_views import explanations_view
    from orchestrator.cli.documents import explanations_document

    bounded("--limit", limit, "CountOrNone")
    sweep = load(source, sweeps)
    others = [load(other, sweeps) for other in against or ()]
    found = explained(sweep, keys or (), where=where or (), against=others)
    shown = found[:limit] if limit else found
    if as_json:
        print_json(explanations_document(shown, len(found)))
    else:
        print("\n".join(explanations_view(shown, len(found))))
    sys.exit(0 if all(one.is_settled for one in found) else 1)


def fsck(
    source: Source,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make again what the other files hold, then look again.")
    ] = False,
    sweeps: Sweeps = DEFAULT_SWEEPS,
    as_json: Json = False,
) -> None:
    """Prove from shards, jobs and records that every planned cell is settled exactly once.

    `check` says quickly whether the work is done. fsck reads every file whole and compares each with the others: keys,
    numbers, attempts, repeated measurements, records, what cells learned. --repair plans torn cells anew, writes the
    spec's copy, gathers the store, and writes a lost shard again while the store has its rows. It removes nothing.
    Exit code 0: proven; 1: damage, or cells that are not settled; 2: bad input, or nothing to read.

    \b
    causalsweep fsck demo
    causalsweep fsck demo --repair --json
    """
    from orchestrator.audit.fsck import fsck as audited
    from orchestrator.cli.audit_views import audit_view
    from orchestrator.cli.documents import audit_document

    audit = audited(source, sweeps=sweeps, repair=repair)
    print_json(audit_document(audit)) if as_json else print("\n".join(audit_view(audit)))
    sys.exit(0 if audit.is_proven else 1)
