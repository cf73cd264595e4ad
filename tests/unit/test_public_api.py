"""The public interface: `import causalsweep`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import causalsweep
import orchestrator

PROJECT = Path(__file__).parents[2]


def test_sweep_is_the_orchestrators() -> None:
    """`causalsweep.Sweep` and `orchestrator.Sweep` are one class."""
    assert causalsweep.Sweep is orchestrator.Sweep


def test_unknown_names_are_refused() -> None:
    """A name that the package does not offer is an AttributeError that names it."""
    with pytest.raises(AttributeError, match="'Sweeps'"):
        causalsweep.Sweeps  # noqa: B018


def test_import_is_light() -> None:
    """`import causalsweep` loads no library of others, and takes less than a tenth of a second of CPU."""
    code = (
        "import sys, time; before = time.process_time(); import causalsweep\n"
        "spent = time.process_time() - before\n"
        "heavy = {'torch', 'pandas', 'pyarrow', 'pydantic', 'typer'} & set(sys.modules)\n"
        "print(sorted(heavy), spent)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    heavy, _, seconds = ended.stdout.strip().rpartition(" ")
    assert heavy == "[]"
    assert float(seconds) < 0.1


@pytest.mark.parametrize("package", ["causalsweep", "orchestrator", "workers", "cluster"])
def test_packages_say_that_they_are_typed(package: str) -> None:
    """A type checker reads the annotations of an installed package only where `py.typed` lies in it."""
    assert (PROJECT / package / "py.typed").is_file()
