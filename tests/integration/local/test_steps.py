"""A part of the trials of tests/steps.py: a command that is killed leaves a folder on which the next one continues."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import folder as sweep_folder
from tests.steps import TRIALS, tried

STRIDE = {"report": 40, "submit again": 20, "run": 15, "grow": 15}  # the others: each ninth step


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages in one line."""
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("name", TRIALS)
def test_a_killed_command_leaves_a_folder_to_continue_with(tmp_path: Path, name: str) -> None:
    """The next natural command ends with 0, the sweep comes to its end, and no cell is run or counted twice."""
    assert list(tried(name, tmp_path, stride=STRIDE.get(name, 9), offset=3)) == []


def test_a_half_written_file_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: the spec is not replaced whole but written in place; killed in between, it is empty."""

    def in_place(path: Path, content: bytes | str) -> None:
        data = content.encode() if isinstance(content, str) else content
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        path.write_bytes(data)

    monkeypatch.setattr(sweep_folder, "replace_file", in_place)
    assert any("sweep.yaml" in fault for fault in tried("submit", tmp_path))
