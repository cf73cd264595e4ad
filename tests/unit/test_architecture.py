"""The direction of imports: orchestrator -> workers' plain types and cluster; workers and cluster know neither each
other nor the orchestrator; each heavy library has its place."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = ("orchestrator", "workers", "cluster")
HEAVY = {"torch", "transformers", "ray", "submitit"}
# Where a library may be imported.
HOME = {
    "torch": ("workers/",),
    "transformers": ("workers/",),
    "submitit": ("cluster/slurm.py", "cluster/slurm/"),
    "ray": ("cluster/ray/",),
}
MAX_LINES = 400


def modules_of(package: str) -> list[Path]:
    """The Python files of a package, relative to the project."""
    return sorted(path.relative_to(PROJECT) for path in (PROJECT / package).rglob("*.py"))


def imported_by(path: Path) -> set[str]:
    """The top-level names that a file imports anywhere, in functions too."""
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the package's name"
            names.add((node.module or "").partition(".")[0])
    return names


def offenders(package: str, forbidden: set[str]) -> dict[str, set[str]]:
    """The files of a package that import something forbidden, and what."""
    found = {str(path): imported_by(path) & forbidden for path in modules_of(package)}
    return {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("package", ["workers", "cluster"])
def test_lower_packages_import_no_sibling(package: str) -> None:
    """Workers and cluster import neither each other nor the orchestrator."""
    assert offenders(package, set(PACKAGES) - {package}) == {}


@pytest.mark.parametrize(("library", "homes"), HOME.items())
def test_heavy_library_stays_at_home(library: str, homes: tuple[str, ...]) -> None:
    """Torch and transformers are the workers' alone; submitit and ray have one backend each."""
    found = [path for package in PACKAGES for path in offenders(package, {library})]
    assert [path for path in found if not path.startswith(homes)] == []


def test_orchestrator_loads_nothing_heavy() -> None:
    """Importing every module of the orchestrator, and all that they import in turn, loads no heavy library."""
    modules = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in modules_of("orchestrator")]
    modules = [name for name in modules if not name.endswith("__main__")]
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\n"
    code += f"print(sorted({HEAVY} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert ended.stdout.strip() == "[]"


def test_scanner_sees_imports_inside_functions(tmp_path: Path) -> None:
    """The scan behind these tests is not fooled by an import that hides in a function."""
    hidden = tmp_path / "hidden.py"
    hidden.write_text("import os\n\ndef f():\n    from torch.nn import Linear\n    return Linear\n")
    assert imported_by(hidden) == {"os", "torch"}


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_short(package: str) -> None:
    """No file has more lines than a reader holds in mind."""
    lengths = {str(path): len((PROJECT / path).read_text().splitlines()) for path in modules_of(package)}
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}
