"""What all tests share: one thread a process, no network, no deprecated calls of ours, the demo's checkpoint, and no
silent skips in CI."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.strict.sitecustomize import be_strict
from tests.testbeds import take_down

# Before torch is imported anywhere; processes that tests start inherit them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
STRICT = Path(__file__).parent / "strict"  # its sitecustomize.py
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(STRICT), os.environ.get("PYTHONPATH", "")]))

PROJECT = Path(__file__).parents[1]
MUST_RUN_IN_CI = ("slurm", "ray", "browser")


@pytest.fixture(scope="session")
def project() -> Path:
    """The repository's root."""
    return PROJECT


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The folder of the demo's checkpoint."""
    return PROJECT / "examples" / "demo-model"


def pytest_sessionstart() -> None:
    """Deprecated calls of ours are errors in this process too."""
    be_strict()


def pytest_sessionfinish() -> None:
    """Take the pretend clusters down."""
    take_down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """With CI=true a skipped cluster test is a failed one."""
    report = yield
    if report.skipped and _in_ci() and any(item.get_closest_marker(name) for name in MUST_RUN_IN_CI):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where this test must run: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """With CI=true a module that skips itself whole is a failed one: its markers cannot be seen."""
    report = yield
    if report.skipped and _in_ci():
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: skipped in CI: {_reason(report)}"
    return report


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


def _reason(report: Any) -> str:
    return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
