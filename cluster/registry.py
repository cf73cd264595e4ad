"""The backends by name. A new one is its folder and one line here: what it can do, it says itself (cluster/backend.py).

Nothing of a backend is imported before it is asked for: a SLURM user needs no Ray, and `--help` answers at once.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Final

from cluster.backend import AbstractCluster, ClusterUsageError

BACKENDS: Final[Mapping[str, str]] = {
    "local": "cluster.local:LocalCluster",
    "slurm": "cluster.slurm:SlurmCluster",
    "ray": "cluster.ray:RayCluster",
    "ray-slurm": "cluster.ray.slurm:RaySlurmCluster",
}
DEFAULT_BACKEND: Final = next(iter(BACKENDS))  # it needs nothing but this machine


def spec_key(name: str) -> str:
    """The key of a spec that holds the options of the backend `name`."""
    return name.replace("-", "_")


def load_backend(name: str) -> type[AbstractCluster]:
    """The class of the backend `name`. Raises: ClusterUsageError when a library is missing, naming what installs it."""
    module, _, kind = BACKENDS[name].partition(":")
    try:
        backend: type[AbstractCluster] = getattr(importlib.import_module(module), kind)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        extra = _extra_of(library)
        if not extra:
            raise
        raise ClusterUsageError(f"{error.name} is not installed; pip install 'causalsweep[{extra}]'") from error
    return backend


def _extra_of(library: str) -> str:
    """The optional dependency of our own package that brings `library`, as pyproject.toml declares it; else empty."""
    from importlib import metadata  # only where something is missing: it takes a tenth of the start of a command

    for line in metadata.requires("causalsweep") or ():
        needed = re.match(r"[A-Za-z0-9._-]+", line)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", line)
        if needed and extra and needed[0].lower().replace("-", "_") == library.lower():
            return extra[1]
    return ""
