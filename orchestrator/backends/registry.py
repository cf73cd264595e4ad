"""The backends by name, each imported only when it is asked for: a SLURM user needs no Ray."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from cluster.backend import AbstractCluster, ClusterUsageError
from orchestrator.errors import SpecError
from orchestrator.spec.schema import SweepSpec
from workers.files.folder import SweepFolder

BACKENDS: Final[Mapping[str, str]] = {
    "local": "cluster.local:LocalCluster",
    "slurm": "cluster.slurm:SlurmCluster",
    "ray": "cluster.ray:RayCluster",
    "ray-slurm": "cluster.ray.slurm:RaySlurmCluster",
}
_EXTRAS: Final[Mapping[str, str]] = {"submitit": "slurm", "ray": "ray"}  # library -> optional dependency that brings it


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
