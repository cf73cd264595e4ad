"""The versions that pyproject.toml allows, those of constraints.txt, and those that the oldest run takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.oldest_versions import oldest_constraints, oldest_version, pinned_versions, requirements

FOR_USERS, FOR_TESTS = requirements()


@pytest.mark.parametrize("requirement", [*FOR_USERS, *FOR_TESTS], ids=str)
def test_every_requirement_has_a_tested_version_in_its_range(requirement: Requirement) -> None:
    """What pyproject.toml asks for has a line in constraints.txt (`make constraints`), and the line is allowed."""
    tested = pinned_versions()
    name = canonicalize_name(requirement.name)
    assert name in tested
    assert tested[name] in requirement.specifier


@pytest.mark.parametrize("requirement", FOR_USERS, ids=str)
def test_users_requirements_are_bounded_on_both_sides(requirement: Requirement) -> None:
    """A library that users install has an oldest version, to be tested, and no next major one, which nobody knows."""
    assert {bound.operator for bound in requirement.specifier} in ({">=", "<"}, {"=="})


def test_no_constraint_names_a_local_build(project: Path) -> None:
    """pip picks the build: a `+cpu` or a path would keep others from installing the file's versions."""
    lines = (project / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#") and any(mark in line for mark in "+@/ ")] == []


def test_oldest_constraints_are_the_lower_bounds() -> None:
    """Each library at its lower bound; torch at the tested version, or at the one that is asked for."""
    pins = dict(line.split("==") for line in oldest_constraints())
    for requirement in FOR_USERS:
        name = canonicalize_name(requirement.name)
        assert pins[name] == (pinned_versions()["torch"] if name == "torch" else oldest_version(requirement))
    assert "torch==2.9.0" in oldest_constraints("torch==2.9.0")


def test_a_requirement_without_a_lower_bound_is_named() -> None:
    """The oldest version of `x<2` is nobody's to say."""
    with pytest.raises(ValueError, match="x<2: no lower bound"):
        oldest_version(Requirement("x<2"))
