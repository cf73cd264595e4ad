"""A limit of jobs at once over several arrays: SLURM limits each array by itself.

The arrays are served in the order of submission. The first ones share the limit, each with no more than it has left;
an array for which nothing remains waits (`afterany`) for the ones before it to end. So nobody need be there to let it
go, and whatever SLURM starts between our looking and our telling it, the limit holds.
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.slurm.commands import Refused, ask


def shares(n_jobs: int, remaining: Mapping[str, int], running: Mapping[str, int]) -> dict[str, int]:
    """How many of `n_jobs` each array gets: first come first served, and at least what runs of it already."""
    got: dict[str, int] = {}
    left = n_jobs - sum(running.values())
    for array, size in remaining.items():
        more = max(0, min(size - running[array], left))
        got[array] = running[array] + more
        left -= more
    return got


def share_out(n_jobs: int | None, active: Mapping[str, tuple[int, int]]) -> None:
    """Let at most `n_jobs` of these arrays' jobs run at once; `active`: waiting and running jobs of each.

    Raises: ClusterUnavailable.
    """
    if n_jobs is None:
        for array, (n_waiting, _) in active.items():
            if n_waiting:
                _update(array, "arraytaskthrottle=0", "dependency=")
        return
    remaining = {array: sum(counts) for array, counts in active.items()}
    share = shares(n_jobs, remaining, {array: counts[1] for array, counts in active.items()})
    before = [array for array in active if share[array]]
    for array, (n_waiting, _) in active.items():
        if n_waiting and share[array]:
            _update(array, f"arraytaskthrottle={share[array]}", "dependency=")
        elif n_waiting:
            _update(array, f"arraytaskthrottle={n_jobs}", f"dependency=afterany:{':'.join(before)}")
            before = [array]


def _update(array: str, *settings: str) -> None:
    for setting in settings:
        try:
            ask("scontrol", "update", f"jobid={array}", setting)
        except Refused:
            continue  # nothing of it waits any more
