"""Every command with a standard output that is full or gone, and with Ctrl-C while it loads: never a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.spec.text import to_yaml

# Each command, as it is called on the tiny sweep when it has run.
COMMANDS: dict[str, list[str]] = {
    "help": ["--help"],
    "version": ["--version"],
    "plan": ["plan", "tiny.yaml"],
    "plan as json": ["plan", "tiny.yaml", "--json"],
    "prompt": ["prompt", "tiny.yaml"],
    "status": ["status", "tiny"],
    "results": ["results", "tiny", "--format", "csv"],
    "results as a table": ["results", "tiny"],
    "summary": ["summary", "tiny"],
    "query": ["query", "tiny", "SELECT * FROM results"],
    "check": ["check", "tiny"],
    "errors": ["errors", "tiny"],
    "logs": ["logs", "tiny"],
    "doctor": ["doctor", "tiny"],
    "report": ["report", "tiny"],
    "cancel": ["cancel", "tiny"],
    "hold": ["hold", "tiny"],
    "release": ["release", "tiny"],
    "limit": ["limit", "tiny", "2"],
    "submit": ["submit", "tiny.yaml"],
    "resume": ["resume", "tiny"],
    "run": ["run", "tiny.yaml"],
}
# Sends Ctrl-C to itself when a module is looked for, as if the user had pressed it just then.
INTERRUPTED = """
import signal, sys
class AtImport:
    moment = sys.argv.pop(1)
    def find_spec(self, name, path=None, target=None):
        if name == self.moment:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, AtImport())
from orchestrator.__main__ import main
main()
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """A folder with a spec of one cell, and the sweep of it, done."""
    folder = tmp_path_factory.mktemp("finished")
    spec = {
        "name": "tiny",
        "model": {"path": str(demo_model), "dtype": "float32"},
        "task": "price_tagging",
        "grid": {"experiments": ["left_boundary"], "layers": [3], "positions": [81]},
        "method": {"name": "interchange"},
        "data": {"n_train": 64, "n_eval": 20, "n_test": 40},
        "gate": {"task_accuracy": 0.0},
    }
    (folder / "tiny.yaml").write_text(to_yaml(spec), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "orchestrator", "run", "tiny.yaml"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_output_is_one_line(name: str, finished: Path) -> None:
    """Exit code 2 and what could not be written."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "orchestrator", *COMMANDS[name]],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=finished,
            check=False,
        )
    assert ended.stderr == "error: standard output: cannot write: No space left on device\n"
    assert ended.returncode == 2


@pytest.mark.parametrize("name", ["plan", "results", "help"])
def test_an_output_that_nobody_reads_is_quiet(name: str, finished: Path) -> None:
    """As in `causalsweep results demo | head`: exit code 1 and no word."""
    command = [sys.executable, "-m", "orchestrator", *COMMANDS[name]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=finished, text=True, **pipes)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    assert (said, process.wait()) == ("", 1)
    process.stderr.close()


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("help", "typer"),
        ("help", "orchestrator.cli.steering"),
        ("plan", "pydantic"),
        ("plan", "ruamel.yaml"),
        ("plan", "pydantic_core._pydantic_core"),
        ("plan", "tokenizers.tokenizers"),
        ("status", "orchestrator.sweep"),
        ("status", "pyarrow"),
        ("status", "pyarrow.lib"),
        ("results", "pandas"),
        ("results", "numpy._core.multiarray"),
        ("results", "pandas._libs.tslibs"),
        ("query", "duckdb"),
        ("query", "_duckdb"),
        ("report", "matplotlib"),
        ("report", "matplotlib.ft2font"),
        ("doctor", "cluster.local.backend"),
        ("cancel", "orchestrator.jobs.control"),
        ("submit", "orchestrator.jobs.submit"),
        ("run", "rich.console"),
        ("run", "cluster.local"),
    ],
)
def test_ctrl_c_while_a_command_loads(name: str, moment: str, finished: Path) -> None:
    """Exit code 130, no traceback, and nothing on standard output."""
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, moment, *COMMANDS[name]],
        capture_output=True,
        text=True,
        cwd=finished,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.returncode == 130
