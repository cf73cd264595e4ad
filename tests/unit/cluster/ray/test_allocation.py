"""A node of Ray inside an allocation: what is tried again, and what is given up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from cluster.ray import allocation


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The commands that stand for `ray start`, in turn; those that were started are taken off the list."""
    commands: list[str] = []
    running: list[subprocess.Popen[bytes]] = []

    def start(*_arguments: str) -> subprocess.Popen[bytes]:
        running.append(subprocess.Popen(["sh", "-c", commands.pop(0)]))
        return running[-1]

    monkeypatch.setattr(allocation, "_start_ray", start)
    monkeypatch.setattr(allocation, "LOOK_S", 0.01)
    monkeypatch.setattr(allocation, "_end_descendants", lambda: None)
    yield commands
    for process in running:
        process.kill()
        process.wait()


def test_a_raylet_that_dies_at_its_start_is_started_again(starts: list[str]) -> None:
    """Two starts end, the third stays: what is wanted is then seen, of the third."""
    starts += ["exit 1", "exit 1", "exec sleep 60"]
    ray, seen = allocation._with_ray([], lambda: "node" if not starts else None, "the head", patience_s=60)
    assert seen == "node"
    assert ray.poll() is None


def test_a_raylet_that_always_dies_is_given_up(starts: list[str]) -> None:
    """After three starts the allocation ends, and says with which exit code."""
    starts += ["exit 1", "exit 1", "exit 7", "exec sleep 60"]
    with pytest.raises(allocation._GivenUp, match="exit code 7 while waiting for the head"):
        allocation._with_ray([], lambda: None, "the head", patience_s=60)
    assert starts == ["exec sleep 60"]


def test_a_wait_has_an_end(starts: list[str]) -> None:
    """Ray runs and the others never come: given up after the patience, not started again."""
    starts += ["exec sleep 60", "exec sleep 60"]
    with pytest.raises(allocation._GivenUp, match="not within 0 s: 4 nodes"):
        allocation._with_ray([], lambda: None, "4 nodes", patience_s=0.05)
    assert starts == ["exec sleep 60"]
