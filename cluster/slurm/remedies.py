"""What to do about SLURM's refusals."""

from __future__ import annotations

import re
from typing import Final

_JOB_LIMIT: Final = re.compile(
    r"SubmitJob|job submit limit|MaxJobCount|maximum number of jobs|too many jobs", re.IGNORECASE
)

_REMEDIES: Final = {
    r"partition": "Set slurm.partition to one that `sinfo` lists.",
    r"node configuration is not available": (
        "No node has that many GPUs, CPUs or that much memory: set slurm.gpus (TYPE:N), slurm.cpus or slurm.mem to what"
        " `sinfo -o '%P %G %c %m'` lists."
    ),
    r"generic resource|gres": "Set slurm.gpus to a type and number that `sinfo -o '%P %G'` lists.",
    r"account": "Set slurm.account to one that `sacctmgr show assoc user=$USER` lists.",
    r"qos": "Set slurm.qos to one that `sacctmgr show assoc user=$USER format=qos` lists.",
    r"time limit": "Set slurm.time below the partition's limit (`sinfo -o '%P %l'`), or make the jobs shorter.",
    r"memory": "Set slurm.mem below what `sinfo -o '%P %m'` lists.",
    r"feature|constraint": "Set slurm.constraint to features that `sinfo -o '%N %f'` lists.",
    r"unrecognized option|invalid option": "The option is not known to this version of sbatch.",
}


def is_job_limit(message: str) -> bool:
    """Whether SLURM refused because of the number of jobs, so that the same will be taken later."""
    return _JOB_LIMIT.search(message) is not None


def remedy(message: str) -> str:
    """What is expected, for a refusal in SLURM's words."""
    for pattern, text in _REMEDIES.items():
        if re.search(pattern, message, re.IGNORECASE):
            return text
    return "Mend the slurm: block of the spec."
