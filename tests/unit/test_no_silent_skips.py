"""The rule of tests/conftest.py: in CI a cluster test that skips itself is a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SKIPPING = """
import pytest

@pytest.mark.{mark}
def test_one():
    pytest.skip("not here")
"""
SKIPPING_MODULE = "import pytest\npytest.skip('not here', allow_module_level=True)\n"


@pytest.fixture
def suite(pytester: pytest.Pytester, project: Path) -> pytest.Pytester:
    """A project of its own with this project's conftest.py."""
    pytester.makeconftest((project / "tests" / "conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers =\n    slurm\n    ray\n    gpu\n")
    return pytester


@pytest.mark.parametrize(("mark", "ci", "outcome"), [
    ("slurm", "true", {"failed": 1}),
    ("ray", "true", {"failed": 1}),
    ("gpu", "true", {"skipped": 1}),
    ("slurm", "", {"skipped": 1}),
])  # fmt: skip
def test_skip_of_a_cluster_test(
    suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, mark: str, ci: str, outcome: dict[str, int]
) -> None:
    """Only in CI, and only where a cluster is needed, a skip counts as a failure."""
    monkeypatch.setenv("CI", ci)
    suite.makepyfile(SKIPPING.format(mark=mark))
    suite.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(**outcome)


def test_skip_of_a_whole_module(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that skips itself hides its markers, so it fails in CI."""
    monkeypatch.setenv("CI", "true")
    suite.makepyfile(SKIPPING_MODULE)
    suite.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(errors=1)
