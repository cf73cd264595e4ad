"""The registry of backends: each line leads to a class that says what it can do, without importing any beforehand."""

import subprocess
import sys

import pytest

from cluster import registry
from cluster.backend import AbstractCluster, ClusterUsageError


@pytest.mark.parametrize("name", list(registry.BACKENDS))
def test_each_line_leads_to_a_backend(name: str) -> None:
    """Every name loads a backend that implements the whole contract."""
    backend = registry.load_backend(name)
    assert issubclass(backend, AbstractCluster)
    assert backend.__abstractmethods__ == frozenset()


def test_reading_the_registry_imports_no_backend() -> None:
    """What is in the registry is known before any backend, or its library, is imported."""
    code = "import sys, cluster.registry; print([m for m in sys.modules if m.startswith('cluster.')])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "['cluster.backend', 'cluster.registry']"


@pytest.mark.parametrize(("name", "library", "extra"), [("slurm", "submitit", "slurm"), ("ray", "ray", "ray")])
def test_a_missing_library_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, name: str, library: str, extra: str
) -> None:
    """The optional dependency is looked up where it is declared, in the package's own metadata."""

    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    monkeypatch.setattr(registry.importlib, "import_module", missing)
    with pytest.raises(ClusterUsageError, match=rf"{library} is not installed; pip install 'causalsweep\[{extra}\]'"):
        registry.load_backend(name)


def test_another_missing_module_is_a_bug_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that no optional dependency brings is not explained away."""
    monkeypatch.setattr(registry, "BACKENDS", {"odd": "cluster.nowhere:Odd"})
    with pytest.raises(ModuleNotFoundError):
        registry.load_backend("odd")
