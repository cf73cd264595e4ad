"""What would fail on a Ray cluster, or wait for ever, is refused before anything is handed in."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from typing import Final

from cluster.backend import ClusterUnavailable, ClusterUsageError, JobRequest
from cluster.ray.api import RayApi
from cluster.ray.record import RayJobOptions

REACH: Final = (
    "start Ray (`ray start --head`), mend ray.address, or open the tunnel (`ssh -N -L 8265:127.0.0.1:8265 HEAD`)"
)
SAME: Final = "submit from the environment that `ray start` ran in, or start Ray from this one"
LESS: Final = "lower jobs.gpus, ray.cpus_per_job or ray.resources, or have a node join that is large enough"


def check_cluster(api: RayApi, requests: Sequence[JobRequest], options: RayJobOptions) -> None:
    """Raises: ClusterUsageError (no Ray there, other versions, more GPUs than a node has)."""
    try:
        mismatch, nodes = mismatch_of(api), api.nodes()
    except ClusterUnavailable as error:
        raise ClusterUsageError(f"ray.address: {error}; {REACH}") from None
    if mismatch:
        raise ClusterUsageError(f"{mismatch}; {SAME}")
    for request in requests:
        needs = {"GPU": float(request.n_gpus), "CPU": options.cpus_per_job, **options.resources}
        if not any(all(node.resources.get(key, 0) >= n for key, n in needs.items() if n) for node in nodes):
            wanted = ", ".join(f"{n:g} {key}" for key, n in needs.items() if n)
            there = "; ".join(sorted(f"{node.name} {node.n_gpus:g} GPU, {node.n_cpus:g} CPU" for node in nodes))
            raise ClusterUsageError(f"{request.name} needs {wanted} on one node; Ray has {there or 'no node'}; {LESS}")


def mismatch_of(api: RayApi) -> str:
    """How the versions here differ from the cluster's; empty where they agree. Ray itself demands equality.

    Raises: ClusterUsageError, ClusterUnavailable.
    """
    theirs, mine = api.versions(), installed_ray()
    level = os.environ.get("RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL", "patch")
    n_parts = 2 if level == "minor" else 3
    python = platform.python_version()
    if theirs.ray == mine and theirs.python.split(".")[:n_parts] == python.split(".")[:n_parts]:
        return ""
    return f"Ray {mine} on Python {python} here, Ray {theirs.ray} on Python {theirs.python} at {api.address}"


def installed_ray() -> str:
    """The version of Ray in this environment. Raises: ClusterUsageError where there is none."""
    try:
        return importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        raise ClusterUsageError("Ray is not installed here: pip install 'causalsweep[ray]'") from None
