"""The `ray:` block: what a user may say of the cluster and the jobs on it, checked before anything is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from cluster.backend import ClusterUsageError
from cluster.ray.record import RayJobOptions

JOB_OPTIONS: Final = {
    "cpus_per_job": "CPUs that each job reserves (1)",
    "max_restarts": "runs after the first of a job that lost its process or node (5)",
    "resources": "custom resources that each job needs, {name: amount} ({})",
}
OPTIONS: Final = {
    "address": "the dashboard's URL, http://HOST:8265 as `ray start --head` prints it (required)",
    **JOB_OPTIONS,
}


def parse_options(raw: Mapping[str, Any]) -> tuple[str, RayJobOptions]:
    """The address, and how each job runs. Raises: ClusterUsageError, naming the option."""
    for key in raw:
        if key not in OPTIONS:
            raise ClusterUsageError(f"ray.{key}: unknown option; known: {', '.join(OPTIONS)}")
    address = raw.get("address", "")
    if not isinstance(address, str) or not re.fullmatch(r"https?://[^/\s]+/?", address):
        raise ClusterUsageError(f"ray.address: {address!r}; it must be {OPTIONS['address']}, never `auto`")
    return address.rstrip("/"), parse_job_options(raw, "ray")


def parse_job_options(raw: Mapping[str, Any], block: str) -> RayJobOptions:
    """How each job runs, by those keys of `raw` that say so. Raises: ClusterUsageError, naming the option."""
    cpus, restarts = raw.get("cpus_per_job", 1), raw.get("max_restarts", 5)
    resources = raw.get("resources", {})
    if not _is_number(cpus) or cpus < 0:
        raise ClusterUsageError(f"{block}.cpus_per_job: {cpus!r}; it must be a number of 0 or more")
    if not isinstance(restarts, int) or isinstance(restarts, bool) or restarts < 0:
        raise ClusterUsageError(f"{block}.max_restarts: {restarts!r}; it must be a whole number of 0 or more")
    if not isinstance(resources, Mapping) or not all(_is_number(amount) for amount in resources.values()):
        raise ClusterUsageError(f"{block}.resources: {resources!r}; it must map names to numbers")
    named = {str(name): float(amount) for name, amount in resources.items()}
    return RayJobOptions(cpus_per_job=float(cpus), max_restarts=restarts, resources=named)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
