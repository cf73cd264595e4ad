"""The machines that a plan is made for: this one's, or those that the spec's `cluster:` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cluster.backend import KnowsItsSlots, Slots
from cluster.registry import DEFAULT_BACKEND
from orchestrator.backends.opening import open_configured
from orchestrator.errors import SpecError
from orchestrator.plan.costs import DEVICES
from orchestrator.spec.schema import SweepSpec
from workers.files.folder import SweepFolder

_LIKELY_GPU: Final = "a100"  # where the driver does not name the GPU, or the table lacks it


@dataclass(frozen=True, slots=True)
class Machines:
    """What a plan is made for."""

    n_gpus: int  # or workers, where there is no GPU
    kind: str  # a key of `costs.DEVICES`


def machines(spec: SweepSpec, backend: str, folder: SweepFolder) -> Machines:
    """The GPUs that `backend` offers a sweep: those that it knows of, or those of the spec's `cluster:`.

    No backend (``): the spec's `cluster:`, this machine where there is none. Raises: SpecError, ClusterUsageError.
    """
    if backend or spec.cluster is None:
        name = backend or DEFAULT_BACKEND
        cluster = open_configured(spec, name, folder)
        if isinstance(cluster, KnowsItsSlots):
            return _of_slots(spec, cluster.slots())
    if spec.cluster is None:
        right = "give the machines, for instance `cluster: {nodes: 2, gpus_per_node: 8, gpu: a100}`"
        raise SpecError(f"{spec.source}: key `cluster`: missing; {right}")
    if spec.cluster.gpu not in DEVICES:
        raise spec.error("cluster.gpu", spec.cluster.gpu, f"expected one of {', '.join(DEVICES)}")
    _check_room(spec, spec.cluster.gpus_per_node, "`cluster.gpus_per_node`")
    return Machines(spec.cluster.nodes * spec.cluster.gpus_per_node, spec.cluster.gpu)


def _of_slots(spec: SweepSpec, slots: Slots) -> Machines:
    _check_room(spec, slots.n_jobs, f"`{slots.key}`")
    if not slots.has_gpus or spec.run.device == "cpu":
        return Machines(slots.n_jobs, "cpu")
    kind = device_kind(slots.gpu_name)
    return Machines(slots.n_jobs, kind if kind in DEVICES else _LIKELY_GPU)


def _check_room(spec: SweepSpec, n_gpus: int, key: str) -> None:
    """Raises: SpecError when a job is to have more than the `n_gpus` of a machine."""
    if spec.jobs.gpus > n_gpus:
        raise spec.error("jobs.gpus", spec.jobs.gpus, f"a job runs on one machine, and {key} is {n_gpus}")


def device_kind(gpu_name: str) -> str:
    """The key of `costs.DEVICES` that a GPU's full name means, or the name itself where none fits."""
    words = gpu_name.lower().replace("-", " ").split()
    return next((kind for kind in DEVICES if kind in words), gpu_name.lower())
