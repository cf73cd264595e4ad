"""The user's command: run once an event, by whoever sees it first, and never the reason of a failure."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from workers.files import notify as module
from workers.files.folder import SweepFolder
from workers.files.notify import Event, command_of, keep_command, notify


@pytest.fixture
def folder(tmp_path: Path) -> SweepFolder:
    """A sweep's folder."""
    folder = SweepFolder(tmp_path / "demo")
    folder.make()
    return folder


def told(folder: SweepFolder) -> list[str]:
    """What the command has written down."""
    path = folder.root / "told"
    return path.read_text().splitlines() if path.exists() else []


WRITE = 'echo "$CAUSALSWEEP_EVENT $CAUSALSWEEP_SWEEP $CAUSALSWEEP_MESSAGE" >> "$CAUSALSWEEP_FOLDER/told"'


def test_an_event_is_told_once(folder: SweepFolder) -> None:
    """The first who sees it runs the command; another event of the kind is told as well."""
    keep_command(folder, WRITE)
    assert notify(folder, Event.END, "r1", "8 cells done")
    assert not notify(folder, Event.END, "r1", "8 cells done")
    assert notify(folder, Event.FAILURE, "a/b c", "it's $HOME `x`")
    assert told(folder) == ["end demo 8 cells done", "failure demo it's $HOME `x`"]


def test_without_a_command_nothing_happens(folder: SweepFolder) -> None:
    """No mark is left: a command that is given later hears of the next event of that name."""
    assert not notify(folder, Event.END, "r1", "")
    assert not folder.notified.exists()
    keep_command(folder, "")
    assert not folder.notify.exists()
    keep_command(folder, WRITE)
    keep_command(folder, "")
    assert command_of(folder) == ""


@pytest.mark.parametrize("command", ["exit 3", "sleep 5"])
def test_a_command_that_fails_or_hangs_is_logged(
    folder: SweepFolder, command: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is raised, and it is not tried again."""
    monkeypatch.setattr(module, "_LONGEST_S", 0.2)
    keep_command(folder, f"echo before; {command}")
    with caplog.at_level(logging.WARNING):
        assert notify(folder, Event.END, "r1", "")
    assert command in caplog.text
    assert (folder.logs / "notify.log").read_text() == "before\n"
    assert not notify(folder, Event.END, "r1", "")


def test_a_torn_command_is_none(folder: SweepFolder, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the file."""
    folder.notify.write_text("{")
    assert not notify(folder, Event.END, "r1", "")
    assert "notify.json" in caplog.text
