"""Jobs on SLURM.

    backend.py      SlurmCluster: the seam's side
    options.py      the `slurm:` block, checked, and sbatch's options of it
    site.py         what this cluster allows: sizes and limits
    sending.py      one call of submit, or the rest of one that was cut short
    executor.py     sends arrays through submitit; the only importer of it
    queue.py        what squeue and sacct say of our jobs
    status.py       which of the two is believed of a job
    limit.py        how many jobs may run at once
    task.py         runs on a node: the jobs of one array task, their signals, the requeue
    setup.py        the user's lines before the jobs, what they print and how they end
    reasons.py      why a job waits or is held, and what helps
    record.py       the files under `folder/cluster/slurm/`
    doctor.py       what the cluster allows and what will hurt; probe.py looks around on a node
    commands.py     runs squeue, sacct, ...; tells "no answer" from "refused";  remedies.py: what to do about a refusal
    parse.py        what they print, as values

The scheduler is asked, never trusted alone: what a task wrote down itself about its end is read where SLURM's memory
ends. Not seeing a job says nothing about it.
"""

from cluster.slurm.backend import SlurmCluster

__all__ = ["SlurmCluster"]
