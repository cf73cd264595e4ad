"""A sweep's backend, opened with the options that its spec gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster import registry
from cluster.backend import AbstractCluster
from cluster.options import OptionError
from orchestrator.errors import SpecError
from orchestrator.spec.schema import SweepSpec
from workers.files.folder import SweepFolder


def options_of(spec: SweepSpec, name: str) -> dict[str, Any]:
    """What the spec says of the backend `name`, verbatim: the backend checks it. Raises: SpecError."""
    if name not in registry.BACKENDS:
        raise SpecError(f"--on: got {name!r}; expected one of {', '.join(registry.BACKENDS)}")
    options: dict[str, Any] = getattr(spec, registry.spec_key(name))
    return dict(options)


def open_configured(spec: SweepSpec, name: str, folder: SweepFolder) -> AbstractCluster:
    """The backend `name` as the spec configures it, for the sweep in `folder`.

    Raises: SpecError (an option is wrong: file, key, value and what is expected), ClusterUsageError.
    """
    try:
        return open_cluster(name, folder, options_of(spec, name))
    except OptionError as error:
        raise SpecError(f"{spec.source}: {error}") from error


def open_cluster(name: str, folder: SweepFolder, options: Mapping[str, Any]) -> AbstractCluster:
    """The backend `name` for the sweep in `folder`.

    Raises: ClusterUsageError (an option is wrong, or the backend's library is missing).
    """
    backend: Any = registry.load_backend(name)  # each is made from a folder and its options
    cluster: AbstractCluster = backend(folder.root, options)
    return cluster
