"""The machines that a plan is made for: this one's, or those that the spec's `cluster:` names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.registry import open_cluster, options_of
from orchestrator.errors import SpecError
from orchestrator.plan.costs import DEVICES
from orchestrator.spec.schema import SweepSpec
from workers.files.folder import SweepFolder


@dataclass(frozen=True, slots=True)
class Machines:
    """What a plan is made for."""

    n_gpus: int  # or workers, where there is no GPU
    kind: str  # a key of `costs.DEVICES`


def machines(spec: SweepSpec, backend: str, folder: SweepFolder) -> Machines:
    """The GPUs that `backend` offers a sweep: this machine's, or those of the spec's `cluster:`.

    Raises: SpecError, ClusterUsageError.
    """
    options = options_of(spec, backend)
    if backend == "local":
        local: Any = open_cluster(backend, folder, options)
        on_cpu = not local.devices or spec.run.device == "cpu"
        _check_room(spec, local.settings.workers, "`local.workers`")
        return Machines(local.settings.workers, "cpu" if on_cpu else _local_gpu())
    if spec.cluster is None:
        right = "give the machines, for instance `cluster: {nodes: 2, gpus_per_node: 8, gpu: a100}`"
        raise SpecError(f"{spec.source}: key `cluster`: missing; {right}")
    if spec.cluster.gpu not in DEVICES:
        raise spec.error("cluster.gpu", spec.cluster.gpu, f"one of {', '.join(DEVICES)} is right")
    _check_room(spec, spec.cluster.gpus_per_node, "`cluster.gpus_per_node`")
    return Machines(spec.cluster.nodes * spec.cluster.gpus_per_node, spec.cluster.gpu)


def _check_room(spec: SweepSpec, n_gpus: int, key: str) -> None:
    """Raises: SpecError when a job is to have more than the `n_gpus` of a machine."""
    if spec.jobs.gpus > n_gpus:
        raise spec.error("jobs.gpus", spec.jobs.gpus, f"a job runs on one machine, and {key} is {n_gpus}")


def device_kind(gpu_name: str) -> str:
    """The key of `costs.DEVICES` that a GPU's full name means, or the name itself where none fits."""
    words = gpu_name.lower().replace("-", " ").split()
    return next((kind for kind in DEVICES if kind in words), gpu_name.lower())


def _local_gpu() -> str:
    """This machine's kind of GPU as its driver names it; an A100 where it does not or the table lacks it."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model" and device_kind(value.strip()) in DEVICES:
                return device_kind(value.strip())
    return "a100"
