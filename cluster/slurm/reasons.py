"""Why a job waits, in SLURM's word: what it means, what helps, and who can end a hold.

Source: squeue(1), JOB REASON CODES; src/common/job_state_reason.c and src/slurmctld/job_mgr.c of SLURM 22.05 to 25.11
(`_release_job`: its owner may release a job that a user holds or whose reservation is gone; only an operator another).
"""

from __future__ import annotations

import re
from typing import Final

_RELEASE: Final = "`causalsweep release` lets it start"
_ADMINISTRATOR: Final = "only an administrator can release it (scontrol release), or `cancel` it and `resume`"

# SLURM's word or sentence, in lower case and with blanks -> who holds the job and why
_HOLDS: Final = {
    "jobhelduser": f"held by a user; {_RELEASE}",
    "job requeued in held state": f"requeued and held (requeuehold); {_RELEASE}",
    "job requeued in special exit state": f"held by SLURM, in its special exit state; {_RELEASE}",
    "launch failed requeued held": f"held by SLURM: a node could not start it, see its prolog; {_RELEASE}",
    "user env retrieval failed requeued held": f"held by SLURM: the user's environment was not read; {_RELEASE}",
    "reservationdeleted": f"held by SLURM: its reservation is gone; {_RELEASE}",
    "jobheldadmin": f"held by an administrator; {_ADMINISTRATOR}",
    "jobholdmaxrequeue": f"held by SLURM: it was requeued too often; {_ADMINISTRATOR}",
    "launch failure limit exceeded requeued held": f"held by SLURM: its start failed too often; {_ADMINISTRATOR}",
}

# The first pattern that the whole word fits says what it means and what helps.
_WAITS: Final = {
    r"None|Priority": "jobs of a higher priority are first",
    r"Resources": "no node is free",
    r"JobArrayTaskLimit": "your own limit of jobs at once; `causalsweep limit` raises it",
    r"Dependency": "waits for other jobs of the sweep",
    r"DependencyNeverSatisfied": "the jobs that it waits for cannot end well: `cancel`, then `resume`",
    r"BeginTime": "it was requeued or given a begin: SLURM waits two minutes, or until then",
    r"Licenses": "the licences that it asks for are in use",
    r"ReqNodeNotAvail.*": "the nodes that it may use are down, drained or reserved; `sinfo -R` says which",
    r"NodeDown": "a node that it needs is down; `sinfo -R` says why",
    r"PartitionDown|PartitionInactive": "the partition takes no jobs at present; `sinfo` lists others",
    r"PartitionNodeLimit|PartitionConfig": "it asks for more than the partition has: `cancel`, mend slurm:, `resume`",
    r"PartitionTimeLimit": "slurm.time is above the partition's limit: `cancel`, lower it, `resume`",
    r"Reservation": "it waits for its reservation to begin",
    r"ReservationInvalid": "its reservation is gone: `cancel`, mend slurm.reservation, `resume`",
    r"BadConstraints|Constraints": "no node is like what it asks for: `cancel`, mend slurm:, `resume`",
    r"InvalidAccount|AccountNotAllowed": "slurm.account may not be used here: `cancel`, mend it, `resume`",
    r"InvalidQOS|QOSNotAllowed": "slurm.qos may not be used here: `cancel`, mend it, `resume`",
    r"(QOS|Assoc).*(Wall|WallDurationPerJob)(Limit)?": "slurm.time is above your limit: `cancel`, lower it, `resume`",
    r"(QOS|Assoc).*Minutes(Limit)?|QOSUsageThreshold": "your account or QOS has used up its hours; ask who grants them",
    r"(QOS|Assoc)Max.*Per(Job|Node)(Limit)?": "it asks for more than your limit a job: `cancel`, mend slurm:, `resume`",
    r"QOSMin.*": "it asks for less than the QOS demands: `cancel`, mend slurm:, `resume`",
    r"(QOS|Assoc)Grp.*": "your group's share is in use; it starts as jobs of the group end",
    r"(QOS|Assoc|Max).*": "your own share is in use; it starts as your jobs end",
    r"Prolog|Cleaning": "the node prepares, or clears up",
    r"DeadLine": "it cannot end before its deadline: `cancel`, mend slurm.deadline, `resume`",
    r"JobLaunchFailure": "a node could not start it; SLURM tries again",
}


def is_hold(reason: str) -> bool:
    """Whether a waiting job with this reason is held: it will not start by itself."""
    return _plain(reason) in _HOLDS or reason.startswith("JobHeld")


def needs_administrator(reason: str) -> bool:
    """Whether the job's owner cannot end the hold; `reason` may be explained already."""
    return _ADMINISTRATOR in reason or _ADMINISTRATOR in _HOLDS.get(_plain(reason), "")


def explained(reason: str, *, is_held: bool = False) -> str:
    """The reason with what it means and what helps; the reason alone where nobody has said."""
    meaning = _HOLDS.get(_plain(reason)) or next(
        (text for pattern, text in _WAITS.items() if re.fullmatch(pattern, reason)), ""
    )
    if is_held and not meaning:
        meaning = f"held by SLURM; {_RELEASE}"
    return " ".join(filter(None, (reason, f"({meaning})" if meaning else "")))


def _plain(reason: str) -> str:
    return reason.strip("()").replace("_", " ").lower()
