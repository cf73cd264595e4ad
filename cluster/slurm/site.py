"""What this SLURM allows: sizes, time limits and submit limits, asked once for each submission."""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from cluster.backend import ClusterError, ClusterUsageError, JobRequest
from cluster.slurm.commands import ask
from cluster.slurm.options import SlurmOptions
from cluster.slurm.parse import duration_s, parse_config, parse_fields

STOCK_MAX_ARRAY_SIZE: Final = 1001  # slurm.conf(5), MaxArraySize
# A node whose state (`scontrol show nodes`) has one of these takes no jobs at present. Source: sinfo(1).
_OUT: Final = re.compile(r"DOWN|DRAIN|FAIL|UNK|NOT_RESPOND|NO_RESPOND|INVAL|MAINT|RESERVED|REBOOT|POWER|FUTURE|\*")
LOCAL_FOLDERS: Final = ("/tmp", "/var/tmp", "/dev/shm", "/run")
LOCAL_FILE_SYSTEMS: Final = ("tmpfs", "ramfs", "devtmpfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitLimit:
    """The most jobs in the queue of those that `squeue` shows with `filters`."""

    n_jobs: int
    whose: str  # as in "QOS long's limit of 5 submitted jobs"
    filters: tuple[str, ...]

    def room(self) -> int:
        """How many more there may be now. Raises: ClusterUnavailable."""
        return self.n_jobs - len(ask("squeue", "-h", "-r", "-o", "%i", *self.filters).split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the controller and the accounting say."""

    config: dict[str, str]
    partition: dict[str, str]
    nodes: tuple[dict[str, str], ...]
    limits: tuple[SubmitLimit, ...]  # on the jobs that one may have in the queue

    @classmethod
    def ask(cls, options: SlurmOptions) -> Site:
        """The cluster as it is now. Raises: ClusterUsageError (unknown partition), ClusterUnavailable."""
        config = parse_config(ask("scontrol", "show", "config"))
        partitions = [parse_fields(line) for line in ask("scontrol", "show", "partition", "-o").splitlines() if line]
        partition = _chosen(partitions, options)
        return cls(
            config=config,
            partition=partition,
            nodes=tuple(parse_fields(line) for line in ask("scontrol", "show", "nodes", "-o").splitlines() if line),
            limits=tuple(_submit_limits(options, partition)),
        )

    @property
    def max_array_size(self) -> int:
        """The most tasks that an array may have: its largest index is one less."""
        return int(self.config.get("MaxArraySize") or STOCK_MAX_ARRAY_SIZE)

    @property
    def max_time_s(self) -> float:
        """The longest time limit that the partition allows."""
        return duration_s(self.partition.get("MaxTime", "UNLIMITED")) or math.inf

    @property
    def is_healthy(self) -> bool:
        """Whether the partition and all of its nodes are up, so that what cannot start now never can."""
        name = self.partition["PartitionName"]
        nodes = [node for node in self.nodes if name in node.get("Partitions", name).split(",")]
        return self.partition.get("State", "UP") == "UP" and not any(
            _OUT.search(node.get("State", "")) for node in nodes
        )

    @property
    def max_submitted(self) -> float:
        """The least number of jobs that one may have in the queue; infinite where there is no limit."""
        return min((limit.n_jobs for limit in self.limits), default=math.inf)

    def room(self) -> tuple[int, str]:
        """How many more jobs may be submitted now, and what the limit is called. Raises: ClusterUnavailable."""
        rooms = [(limit.room(), f"{limit.whose} limit of {limit.n_jobs} submitted jobs") for limit in self.limits]
        return min(rooms, default=(self.max_array_size, ""))

    def exclude(self, options: SlurmOptions) -> dict[str, str]:
        """sbatch's `exclude`: the user's, and the nodes to be avoided as long as that leaves the partition any.

        Raises: ClusterUsageError (`exclude` is no list of nodes), ClusterUnavailable.
        """
        given = str(options.sbatch.get("exclude", ""))
        if not options.avoid:
            return {"exclude": given} if given else {}
        name = self.partition["PartitionName"]
        nodes = {node["NodeName"] for node in self.nodes if name in node.get("Partitions", "").split(",")}
        left = nodes - set(options.avoid) - set(ask("scontrol", "show", "hostnames", given).split() if given else ())
        excluded = [*filter(None, [given]), *(sorted(nodes & set(options.avoid)) if left else ())]
        return {"exclude": ",".join(excluded)} if excluded else {}

    def check(self, folder: Path, requests: Sequence[JobRequest], options: SlurmOptions) -> None:
        """Raises: ClusterUsageError for what would never run, or run and not find its files."""
        for request in requests:
            if options.n_gpus > 1 and request.n_gpus > options.n_gpus:
                raise ClusterUsageError(
                    f"{request.name} needs {request.n_gpus} GPUs, but slurm.gpus is {options.n_gpus} a SLURM job"
                )
        if options.time_s > self.max_time_s:
            raise ClusterUsageError(
                f"slurm.time: {options.time_s / 60:.0f} minutes; partition {self.partition['PartitionName']} allows"
                f" {self.partition.get('MaxTime')}: lower it, or set slurm.partition to another"
            )
        here = {socket.gethostname(), "localhost"}
        elsewhere = [node["NodeName"] for node in self.nodes if node.get("NodeHostName", "") not in here]
        if elsewhere and is_local(folder):
            raise ClusterUsageError(
                f"{folder}: lies on this machine alone, {elsewhere[0]} and the other nodes cannot see it;"
                " put the sweep on the file system that all nodes share (often your home, or a scratch space)"
            )


def is_local(folder: Path) -> bool:
    """Whether a folder is surely this machine's own: below /tmp and its like, or in memory."""
    path = Path(os.path.realpath(folder))
    return any(path.is_relative_to(local) for local in LOCAL_FOLDERS) or file_system(path) in LOCAL_FILE_SYSTEMS


def file_system(folder: Path) -> str:
    """The type of the file system that a folder lies on (or will lie on), empty where nobody says."""
    mounts = [one for one in psutil.disk_partitions(all=True) if folder.is_relative_to(one.mountpoint)]
    return max(reversed(mounts), key=lambda one: len(one.mountpoint)).fstype if mounts else ""  # the last one covers


def _chosen(partitions: list[dict[str, str]], options: SlurmOptions) -> dict[str, str]:
    wanted = str(options.sbatch.get("partition", ""))
    names = ", ".join(sorted(partition["PartitionName"] for partition in partitions))
    if wanted:
        found = [partition for partition in partitions if partition["PartitionName"] in wanted.split(",")]
        if len(found) < len(wanted.split(",")):
            raise ClusterUsageError(f"slurm.partition: {wanted!r}; there is {names}")
    else:
        found = [partition for partition in partitions if partition.get("Default") == "YES"]
        if not found:
            raise ClusterUsageError(f"slurm.partition: missing, and this cluster has no default one; there is {names}")
    return min(found, key=lambda partition: duration_s(partition.get("MaxTime", "UNLIMITED")))


def _submit_limits(options: SlurmOptions, partition: Mapping[str, str]) -> Iterator[SubmitLimit]:
    """The limits on submitted jobs, each with the jobs that count against it; those of the accounting where it answers.

    Source: sacctmgr(1), MaxSubmitJobs of an association, MaxSubmitJobsPerUser of a QOS; the QOS of a job is its own,
    or its association's default one, and that of its partition holds beside it (slurm.conf(5), QOS).
    """
    user, name = getpass.getuser(), partition["PartitionName"]
    mine = ("-u", user)
    if options.max_submitted:
        yield SubmitLimit(n_jobs=options.max_submitted, whose="your", filters=mine)
    account = str(options.sbatch.get("account", "")) or "".join(_accounted("user", user, "format=DefaultAccount")[:1])
    default_qos, of_account = "", (f"account={account}",) if account else ()
    for line in _accounted("assoc", f"user={user}", *of_account, "format=Partition,MaxSubmitJobs,DefaultQOS"):
        of_partition, n_jobs, qos = (*line.split("|"), "", "")[:3]
        if of_partition in ("", name):
            default_qos = qos or default_qos
            if n_jobs.isdigit():
                filters = (*mine, *(("-A", account) if account else ()), *(("-p", name) if of_partition else ()))
                yield SubmitLimit(n_jobs=int(n_jobs), whose=f"account {account or user}'s", filters=filters)
    own_qos, partition_qos = str(options.sbatch.get("qos", "")) or default_qos, partition.get("QoS", "N/A")
    for qos, filters in ((own_qos, ("-q", own_qos)), (partition_qos, ("-p", name))):
        lines = _accounted("qos", qos, "format=MaxSubmitJobsPU") if qos not in ("", "N/A") else []
        for n_jobs in (line for line in lines if line.isdigit()):
            yield SubmitLimit(n_jobs=int(n_jobs), whose=f"QOS {qos}'s", filters=(*mine, *filters))


def _accounted(*words: str) -> list[str]:
    """The lines that the accounting shows; none where it is off or silent."""
    try:
        return ask("sacctmgr", "-n", "-P", "show", *words, timeout_s=15).split()
    except ClusterError:
        return []
