"""What to do about SLURM's refusals: by the sentence in which SLURM names the cause.

Source: src/common/slurm_errno.c of SLURM 22.05 to 25.11. Before `Job violates accounting/QOS policy (job submit limit,
user's size and/or time limits)` sbatch names the limit itself, in a word of squeue(1), JOB REASON CODES.
"""

from __future__ import annotations

import re
from typing import Final

_LIMIT: Final = re.compile(r"\b(?:QOS|Assoc)[A-Z]\w+|\bMax\w+Per(?:Account|User)\b")
_JOB_LIMIT: Final = re.compile(
    r"job submit limit|MaxJobCount|maximum number of jobs|too many jobs|temporarily unable to accept job", re.IGNORECASE
)

_LIMITS: Final = {
    r"Wall": "Set slurm.time below the limit of your account or QOS (`sacctmgr show qos format=name,maxwall`).",
    r"Minutes|Threshold": "Your account or QOS has used up its hours: ask who grants them, or set slurm.account.",
    r"Min": "Ask for what the QOS demands at least, or set slurm.qos to another.",
    r"GRES|Cpu|CPU|Mem|Node|TRES|Billing": "Set slurm.gpus, slurm.cpus or slurm.mem below your limit"
    " (`sacctmgr show qos format=name,maxtres,maxtrespu`), or slurm.qos to one that allows it.",
}
_REMEDIES: Final = {
    r"invalid account|account/partition combination": (
        "Set slurm.account to one that `sacctmgr show assoc user=$USER format=account,partition` lists."
    ),
    r"invalid qos|relative qos": "Set slurm.qos to one that `sacctmgr show assoc user=$USER format=qos` lists.",
    r"reservation": "Set slurm.reservation to one of yours that `scontrol show reservation` lists, or leave it out.",
    r"licen[sc]e": "Set slurm.licenses to what `scontrol show licenses` lists, or leave it out.",
    r"invalid node name|requested nodes not in this partition|node count specification": (
        "Set slurm.nodelist or slurm.exclude to names that `sinfo -N` lists in the partition."
    ),
    r"time limit": "Set slurm.time below the partition's limit (`sinfo -o '%P %l'`), or make the jobs shorter.",
    r"feature|constraint": "Set slurm.constraint to features that `sinfo -o '%N %f'` lists.",
    r"generic resource|\bgres\b": "Set slurm.gpus to a type and number that `sinfo -o '%P %G'` lists.",
    r"memory": "Set slurm.mem below what `sinfo -o '%P %m'` lists.",
    r"wckey": "Set slurm.wckey to one that `sacctmgr show user $USER withassoc format=wckey` lists, or leave it out.",
    r"not permitted to use this partition": "Set slurm.partition to one that you may use: `scontrol show partition`.",
    r"partition (name|not available|in down state)|no partition": "Set slurm.partition to one that is up (`sinfo`).",
    r"configuration is not available|configuration not available|required node not available": (
        "No node has that many GPUs, CPUs or that much memory: set slurm.gpus (TYPE:N), slurm.cpus or slurm.mem to what"
        " `sinfo -o '%P %G %c %m'` lists."
    ),
    r"permission denied": "You may not do so here: set slurm.account or slurm.partition, or ask an administrator.",
    r"unrecognized option|invalid option": "The option is not known to this version of sbatch.",
}


def is_job_limit(message: str) -> bool:
    """Whether SLURM refused because of the number of jobs, so that the same will be taken later."""
    named = _LIMIT.findall(message)
    return any("Submit" in word for word in named) if named else _JOB_LIMIT.search(message) is not None


def remedy(message: str) -> str:
    """What is expected, for a refusal in SLURM's words."""
    for word in _LIMIT.findall(message):
        for pattern, text in _LIMITS.items():
            if re.search(pattern, word):
                return text
    for pattern, text in _REMEDIES.items():
        if re.search(pattern, message, re.IGNORECASE):
            return text
    return "Mend the slurm: block of the spec."
