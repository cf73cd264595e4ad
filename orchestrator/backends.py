"""The backends by name, each imported only when it is asked for: a SLURM user needs no Ray."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cluster.backend import AbstractCluster, ClusterUsageError
from orchestrator.costs import DEVICES
from orchestrator.errors import SpecError
from orchestrator.spec import SweepSpec
from workers.files import SweepFolder

BACKENDS: Final[Mapping[str, str]] = {
    "local": "cluster.local:LocalCluster",
    "slurm": "cluster.slurm:SlurmCluster",
    "ray": "cluster.ray:RayCluster",
    "ray-slurm": "cluster.ray.slurm:RaySlurmCluster",
}
_EXTRAS: Final[Mapping[str, str]] = {"submitit": "slurm", "ray": "ray"}  # library -> optional dependency that brings it


@dataclass(frozen=True, slots=True)
class Machines:
    """What a plan is made for."""

    n_gpus: int  # or workers, where there is no GPU
    kind: str  # a key of `costs.DEVICES`


def options_of(spec: SweepSpec, name: str) -> dict[str, Any]:
    """What the spec says of the backend `name`, verbatim: the backend checks it. Raises: SpecError."""
    if name not in BACKENDS:
        raise SpecError(f"--on: got {name!r}; one of {', '.join(BACKENDS)} is right")
    options: dict[str, Any] = getattr(spec, name.replace("-", "_"))
    return dict(options)


def open_cluster(name: str, folder: SweepFolder, options: Mapping[str, Any]) -> AbstractCluster:
    """The backend `name` for the sweep in `folder`.

    Raises: ClusterUsageError (an option is wrong, or the backend's library is missing).
    """
    module, _, kind = BACKENDS[name].partition(":")
    try:
        cluster: AbstractCluster = getattr(importlib.import_module(module), kind)(folder.root, options)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ClusterUsageError(f"{error.name} is not installed; pip install 'causalsweep[{extra}]'") from error
    return cluster


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
