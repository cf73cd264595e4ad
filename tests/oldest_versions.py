"""Prints pip constraints for the oldest version that pyproject.toml allows of each library that a user installs.

    python tests/oldest_versions.py [torch==VERSION] > oldest.txt

Test tools keep the versions of constraints.txt. So does torch, unless an argument gives another version: its older
releases have no build for the CPU where pip looks by default.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT: Final = Path(__file__).parents[1]
TEST_TOOLS: Final = "dev"  # the extra of pyproject.toml that users do not install


def requirements(project: Path = PROJECT) -> tuple[list[Requirement], list[Requirement]]:
    """What pyproject.toml has users install, extras among it, and what it adds for tests."""
    table = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = table["optional-dependencies"]
    for_users = [
        *table["dependencies"],
        *(line for name, lines in extras.items() if name != TEST_TOOLS for line in lines),
    ]
    return [Requirement(line) for line in for_users], [Requirement(line) for line in extras[TEST_TOOLS]]


def pinned_versions(project: Path = PROJECT) -> dict[str, str]:
    """The versions of constraints.txt by canonical name."""
    lines = (project / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def oldest_version(requirement: Requirement) -> str:
    """The lower bound of a requirement. Raises: ValueError where it has none."""
    for bound in requirement.specifier:
        if bound.operator in (">=", "=="):
            return bound.version
    raise ValueError(f"pyproject.toml: {requirement}: no lower bound; expected `>=` or `==`")


def oldest_constraints(torch: str = "", project: Path = PROJECT) -> list[str]:
    """One line a library, by name."""
    for_users, for_tests = requirements(project)
    tested = pinned_versions(project)
    pins = {canonicalize_name(one.name): tested[canonicalize_name(one.name)] for one in for_tests}
    pins |= {canonicalize_name(one.name): oldest_version(one) for one in for_users}
    pins["torch"] = torch.removeprefix("torch==") or tested["torch"]
    return [f"{name}=={version}" for name, version in sorted(pins.items())]


if __name__ == "__main__":
    print("\n".join(oldest_constraints(*sys.argv[1:])))
