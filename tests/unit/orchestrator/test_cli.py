"""The command line before anything runs: help, plans, and what a mistake looks like."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.backend import ClusterUsageError
from orchestrator import cli
from tests.unit.orchestrator.conftest import LoadSweep, Run
from tests.unit.orchestrator.fake_cluster import World


@pytest.fixture
def run(run: Run, beside_spec: None) -> Run:
    """Runs `causalsweep` beside the small sweep's spec file and gives its exit code."""
    return run


def test_help_is_quick_and_light() -> None:
    """`--help` takes less than half a second of CPU and imports nothing of pandas, Arrow, DuckDB or pydantic."""
    code = (
        "import sys, time; sys.argv = ['causalsweep', '--help']\n"
        "from orchestrator.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'pandas', 'pyarrow', 'duckdb', 'pydantic', 'torch', 'matplotlib'} & set(sys.modules)\n"
        "print(sorted(heavy), time.process_time(), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, _, seconds = ended.stderr.strip().rpartition(" ")
    assert heavy == "[]"
    assert float(seconds) < 0.5


def test_every_command_has_an_example(capsys: pytest.CaptureFixture[str], run: Run) -> None:
    """`COMMAND --help` shows how it is called."""
    names = [cli._name(function) for functions in cli.GROUPS.values() for function in functions]
    assert len(names) == len({*names}) >= 20
    for name in names:
        assert run(name, "--help") == 0
        assert f"  causalsweep {name}" in capsys.readouterr().out


def test_bad_input_is_one_message_and_exit_code_2(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A wrong spec: the message on standard error, no traceback, nothing written."""
    assert run("submit", "small.yaml", "--set", "dta.n_train=1") == 2
    caught = capsys.readouterr()
    assert caught.err == "error: small.yaml: key `dta`: unknown; did you mean `data`?\n"
    assert caught.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "nothing"),
        ("plan", "nothing.yaml"),
        ("plan", "small.yaml", "--set", "grid.layers=9"),
        ("submit", "small.yaml", "--on", "cloud"),
        ("submit", "small.yaml", "--on", "slurm"),
        ("submit", "small.yaml", "--auto"),
        ("cancel", "small.yaml", "--where", "colour=red"),
        ("limit", "small.yaml", "few"),
        ("logs", "small.yaml", "r9-0001"),
        ("results", "small.yaml", "--format", "parquet"),
        ("results", "small.yaml", "--format", "csv", "-o", "."),
        ("report", "small.yaml", "-o", "small.yaml"),
        ("plan", "small.yaml", "--sweeps", "small.yaml"),
        ("run", "small.yaml", "--poll-s", "-1"),
        ("logs", "small.yaml", "-n", "-1"),
        ("query", "small.yaml", "SELEC 1"),
        ("resume", "small.yaml"),
        ("plan",),
        ("fly",),
    ],
)
def test_mistakes_end_with_2(run: Run, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    """Whatever the user got wrong, the exit code is 2 and there is no traceback."""
    assert run(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


HUGE = "9" * 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("limit", "small.yaml", HUGE), f"limit: got '{HUGE}'; expected a number of jobs, or `none`"),
        (("limit", "small.yaml", "9999999999"), "limit: got 9999999999; expected 1000000000 or less"),
        (("limit", "small.yaml", "²"), "limit: got '²'; expected a number of jobs, or `none`"),
        (("run", "small.yaml", "--poll-s", "inf"), "--poll-s: got inf; expected a finite number"),
        (("run", "small.yaml", "--poll-s", "1e400"), "--poll-s: got inf; expected a finite number"),
        (("status", "small.yaml", "--poll-s", "nan"), "--poll-s: got nan; expected a finite number"),
        (("status", "small.yaml", "--poll-s", "1e30"), "--poll-s: got 1e+30; expected 1000000000.0 or less"),
        (("prompt", "small.yaml", "--draw", "-1"), "--draw: got -1; expected 0 or more"),
        (("prompt", "small.yaml", "--draw", HUGE), f"--draw: got {HUGE}; expected 1000000000 or less"),
        (("logs", "small.yaml", "-n", HUGE), f"--lines: got {HUGE}; expected 1000000000 or less"),
        (
            ("results", "small.yaml", "--where", f"layer={HUGE}"),
            f"--where: got 'layer={HUGE}'; `layer` is '{HUGE}'; expected a whole number or a range such as 0..3",
        ),
        (
            ("cancel", "small.yaml", "--where", f"seed=0..{HUGE}"),
            f"--where: got 'seed=0..{HUGE}'; `seed` is '0..{HUGE}'; expected a whole number or a range such as 0..3",
        ),
        (
            ("plan", "small.yaml", "--set", f"data.n_train={HUGE}"),
            f"small.yaml: key `data.n_train`: got {HUGE}; expected a whole number of at most 64 bits",
        ),
        (
            ("submit", "small.yaml", "--set", "run.threads=1025"),
            "small.yaml: key `run.threads`: got 1025; expected 1024 or less",
        ),
    ],
)
def test_a_number_without_bounds_is_named(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    """Exit code 2, where it was given, what it was, what is expected; nothing is written."""
    assert run(*arguments) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


@pytest.mark.parametrize("command", ["plan", "doctor", "submit"])
def test_an_option_of_a_backend_is_named_with_its_file(
    load: LoadSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """File, key, value and what is expected, with the real backend of this machine."""
    load(local={"workers": 99999})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["causalsweep", command, "small.yaml", "--on", "local"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: small.yaml: local.workers: 99999; it must be 10000 or less\n"


def test_a_refused_submission_leaves_no_folder_behind(run: Run, world: World, tmp_path: Path) -> None:
    """The folders that were made for it go again, those that it should lie in too."""
    world.fails_with = ClusterUsageError("no such partition")
    assert run("submit", "small.yaml", "--sweeps", "deep/sweeps") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


def test_read_only_folder_is_named(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A place where no folder can be made (here: below a file) is named."""
    (tmp_path / "file").write_text("")
    assert run("submit", "small.yaml", "--sweeps", "file/sweeps") == 2
    assert "cannot create the sweep's folder" in capsys.readouterr().err


def test_plan_prints_the_reference_beside(document: Callable[..., Any]) -> None:
    """The plan's document has the engine's totals and the reference's."""
    plan = document("plan", "small.yaml")
    none = dict.fromkeys(("done", "in_jobs", "skipped", "inapplicable", "left_out"), 0)
    assert plan["cells"] == none | {"total": 8, "to_run": 8}
    assert plan["reference"]["gpu_hours"] > plan["totals"]["gpu_hours"] > 0
    assert sum(job["n_cells"] for job in plan["jobs"]) == 8


def test_plan_shows_the_figures(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """For people: cells, jobs, hours, and what they rest on."""
    assert run("plan", "small.yaml") == 0
    text = capsys.readouterr().out
    assert "8 cells to run on 2 x cpu" in text
    assert "reference" in text
    assert "nothing is measured yet" in text


def test_hours_of_a_job_are_by_the_clock_and_gpu_hours_count_each_gpu(load: LoadSweep, world: World) -> None:
    """Two GPUs a job, four machines' worth of them: GPU-hours are twice the jobs' hours, the longest ends the plan."""
    cluster = {"nodes": 4, "gpus_per_node": 2, "gpu": "a100"}
    plan = load(jobs={"gpus": 2}, cluster=cluster).plan(on="slurm")
    hours = [job.predicted_s / 3600 for job in plan.jobs]
    assert plan.totals.job_h == pytest.approx(sum(hours) / len(hours))
    assert plan.totals.gpu_hours == pytest.approx(2 * sum(hours))
    assert plan.totals.makespan_h == pytest.approx(max(hours))


def test_more_gpus_than_a_machine_has_are_refused(
    load: LoadSweep, run: Run, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job is one process: the key, the value and the machine's number; plan and submit say the same."""
    load(jobs={"gpus": 3}, cluster={"nodes": 4, "gpus_per_node": 2, "gpu": "a100"})
    for arguments in (["plan", "small.yaml"], ["submit", "small.yaml", "--on", "slurm"]):
        assert run(*arguments) == 2
        message = "small.yaml: key `jobs.gpus`: got 3; a job runs on one machine, and `cluster.gpus_per_node` is 2"
        assert message in capsys.readouterr().err
    assert run("submit", "small.yaml") == 2
    assert "a job runs on one machine, and `local.workers` is 2" in capsys.readouterr().err


def test_plan_writes_nothing(run: Run, tmp_path: Path) -> None:
    """Planning leaves no folder."""
    run("plan", "small.yaml")
    assert not (tmp_path / "sweeps").exists()
