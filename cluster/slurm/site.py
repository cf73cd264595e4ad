"""What this SLURM allows: sizes, time limits and submit limits, asked once for each submission."""

from __future__ import annotations

import getpass
import math
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from cluster.backend import ClusterError, ClusterUsageError, JobRequest
from cluster.slurm.commands import Refused, ask
from cluster.slurm.options import SlurmOptions
from cluster.slurm.parse import duration_s, parse_config, parse_fields

STOCK_MAX_ARRAY_SIZE: Final = 1001  # slurm.conf(5), MaxArraySize
LOCAL_FOLDERS: Final = ("/tmp", "/var/tmp", "/dev/shm", "/run")
LOCAL_FILE_SYSTEMS: Final = ("tmpfs", "ramfs", "devtmpfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the controller and the accounting say."""

    config: dict[str, str]
    partition: dict[str, str]
    nodes: tuple[dict[str, str], ...]
    max_submitted: float  # jobs of this user in the queue; infinite where there is no limit

    @classmethod
    def ask(cls, options: SlurmOptions) -> Site:
        """The cluster as it is now. Raises: ClusterUsageError (unknown partition), ClusterUnavailable."""
        config = parse_config(ask("scontrol", "show", "config"))
        partitions = [parse_fields(line) for line in ask("scontrol", "show", "partition", "-o").splitlines() if line]
        limit = min(_submit_limits(options), default=math.inf)
        return cls(
            config=config,
            partition=_chosen(partitions, options),
            nodes=tuple(parse_fields(line) for line in ask("scontrol", "show", "nodes", "-o").splitlines() if line),
            max_submitted=min(limit, options.max_submitted or math.inf),
        )

    @property
    def max_array_size(self) -> int:
        """The most tasks that an array may have: its largest index is one less."""
        return int(self.config.get("MaxArraySize") or STOCK_MAX_ARRAY_SIZE)

    @property
    def max_time_s(self) -> float:
        """The longest time limit that the partition allows."""
        return duration_s(self.partition.get("MaxTime", "UNLIMITED")) or math.inf

    def room(self) -> int:
        """How many more jobs this user may submit now. Raises: ClusterUnavailable."""
        if self.max_submitted == math.inf:
            return self.max_array_size
        waiting = ask("squeue", "-h", "-r", "-o", "%i", "-u", getpass.getuser()).split()
        return int(self.max_submitted) - len(waiting)

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


def _submit_limits(options: SlurmOptions) -> list[float]:
    """The limits on submitted jobs that the accounting knows for this user; none where it is off or silent."""
    account, qos = options.sbatch.get("account"), options.sbatch.get("qos")
    where = [f"user={getpass.getuser()}", *([f"account={account}"] if account else [])]
    try:
        lines = ask("sacctmgr", "-n", "-P", "show", "assoc", *where, "format=MaxSubmitJobs", timeout_s=15)
        if qos:
            lines += ask("sacctmgr", "-n", "-P", "show", "qos", str(qos), "format=MaxSubmitJobsPU", timeout_s=15)
    except (ClusterError, Refused):
        return []
    return [float(line) for line in lines.split() if line.isdigit()]
