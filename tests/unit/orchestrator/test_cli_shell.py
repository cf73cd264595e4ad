"""The command line as a shell sees it: the version, and completion."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import pytest


def test_version_is_printed() -> None:
    """`--version` names the program and the version of the installed package."""
    ended = subprocess.run([sys.executable, "-m", "causalsweep", "--version"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"causalsweep {importlib.metadata.version('causalsweep')}\n"


@pytest.mark.parametrize("way", [["-m", "causalsweep"], ["-m", "orchestrator"]])
def test_the_shell_completes_a_command(way: list[str]) -> None:
    """Asked as bash asks it, the program completes `sta` to the one command that begins so."""
    words = {"_CAUSALSWEEP_COMPLETE": "complete_bash", "COMP_WORDS": "causalsweep sta", "COMP_CWORD": "1"}
    ended = subprocess.run([sys.executable, *way], capture_output=True, text=True, env=os.environ | words)
    assert ended.stdout.split() == ["status"]


def test_the_shell_completes_an_option_of_a_command() -> None:
    """Behind a command its own options are completed."""
    words = {"_CAUSALSWEEP_COMPLETE": "complete_bash", "COMP_WORDS": "causalsweep status --wa", "COMP_CWORD": "2"}
    command = [sys.executable, "-m", "causalsweep"]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | words)
    assert ended.stdout.split() == ["--watch"]


def test_a_completion_script_is_shown() -> None:
    """`--show-completion` prints the script that a shell takes."""
    command = [sys.executable, "-m", "causalsweep", "--show-completion", "bash"]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    )
    assert ended.returncode == 0
    assert "complete_bash" in ended.stdout
