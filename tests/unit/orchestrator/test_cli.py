"""The command line: exit codes, documents, and what a mistake looks like."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.backend import ClusterUsageError, Control, JobState
from orchestrator import cli
from orchestrator.cli import steering
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import (
    World,
    fail,
    finish,
    jobs_of,
    newest_jobs,
    set_state,
    write_progress,
    write_shard,
)
from workers.files.failure import FailureClass
from workers.files.progress import AttemptState

Run = Callable[..., int]


@pytest.fixture
def run(load: LoadSweep, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `causalsweep` beside the small sweep's spec file and gives its exit code."""
    load()
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["causalsweep", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return called


@pytest.fixture
def document(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command with --json and gives what it printed."""

    def called(*arguments: str) -> Any:
        capsys.readouterr()
        run(*arguments, "--json")
        return json.loads(capsys.readouterr().out)

    return called


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


def test_submit_status_check(run: Run, document: Callable[..., Any], load: LoadSweep, world: World) -> None:
    """Submitted cells wait, finished ones are done; check says 1, then 0."""
    assert document("submit", "small.yaml")["n_cells"] == 8
    status = document("status", "small")
    assert (status["cells"]["waiting"], status["is_quiet"]) == (8, False)
    assert {job["state"] for job in status["jobs"]} == {"PENDING"}
    assert run("check", "small") == 1
    for job in jobs_of(load()):
        finish(world, job)
    assert run("check", "small") == 0
    assert document("status", "small", "--watch")["is_done"]


def test_run_ends_with_1_where_cells_fail(run: Run, load: LoadSweep, world: World) -> None:
    """`run` is done only when every cell is."""
    run("submit", "small.yaml")
    for job in jobs_of(load()):
        write_progress(job, AttemptState.FAILED, kind=FailureClass.BAD_INPUT)
        set_state(world, job.job, JobState.FAILED)
    assert run("run", "small.yaml") == 1


def test_why_the_gate_kept_cells_out_stands_at_the_end(
    run: Run, load: LoadSweep, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """`run` and `errors` end with the gate's reason; there is nothing to resume, so nothing of it is said."""
    run("submit", "small.yaml")
    for job in jobs_of(load()):
        write_shard(job, status="skipped", reason="task accuracy 0.7000 is below the gate's 0.8000", task_accuracy=0.7)
        write_progress(job, AttemptState.FINISHED)
        set_state(world, job.job, JobState.COMPLETED)
    capsys.readouterr()
    line = "8 cells skipped: task accuracy 0.7000 is below the gate's 0.8000; they run under a lower gate.task_accuracy"
    assert run("run", "small.yaml") == 1
    printed = capsys.readouterr().out
    assert line in printed
    assert "resume" not in printed
    run("errors", "small.yaml")
    assert line in capsys.readouterr().out


def test_jobs_whose_cells_are_done_since_are_no_longer_shown_as_failed(
    run: Run, load: LoadSweep, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two jobs fail and are named; one's cells are done by a later job, then both are: they are only counted."""

    def failed_lines() -> list[str]:
        capsys.readouterr()
        run("status", "small")
        return [line for line in capsys.readouterr().out.splitlines() if "failed:" in line or "failed, but" in line]

    run("submit", "small.yaml")
    for job in jobs_of(load()):
        fail(world, job, FailureClass.BUG)
    assert failed_lines() == ["r1-0001 failed: bug: it broke", "r1-0002 failed: bug: it broke"]
    run("resume", "small")
    first, second = newest_jobs(load())
    finish(world, first)
    fail(world, second, FailureClass.BUG)
    counted = "2 jobs failed, but all their cells are now done or in later jobs: causalsweep errors small"
    assert failed_lines() == [f"{second.job} failed: bug: it broke", counted]
    run("resume", "small", "--force")
    for job in newest_jobs(load()):
        finish(world, job)
    assert failed_lines() == [counted.replace("2 jobs", "3 jobs")]


def test_limit_says_what_it_did_or_why_not(
    run: Run, document: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Before anything is submitted there is nothing to limit: exit code 2, nothing written. Then a line says so."""
    assert run("limit", "small.yaml", "4") == 2
    assert "small: never submitted, nothing to limit; causalsweep submit first, then limit" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]
    run("submit", "small.yaml")
    capsys.readouterr()
    assert run("limit", "small", "4") == 0
    assert capsys.readouterr().out == "limit: at most 4 jobs of small at once, on local; running jobs continue\n"
    assert document("limit", "small", "none") == {"limit": None, "backends": ["local"]}


def test_errors_are_grouped(run: Run, document: Callable[..., Any], load: LoadSweep, world: World) -> None:
    """Two jobs with one fault are one entry."""
    run("submit", "small.yaml")
    for job in jobs_of(load()):
        write_progress(job, AttemptState.FAILED, kind=FailureClass.BUG, message=f"IndexError: {job.job}")
        set_state(world, job.job, JobState.FAILED)
    (fault,) = document("errors", "small")
    assert (fault["count"], fault["kind"], fault["hosts"]) == (2, "bug", ["node1"])


def test_results_in_every_format(run: Run, load: LoadSweep, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV, Parquet and JSON hold the same rows; without any, a table says so."""
    import pandas as pd

    run("submit", "small.yaml")
    capsys.readouterr()
    assert run("results", "small", "--where", "layer=1") == 0
    assert capsys.readouterr().out == "no rows\n"
    for job in jobs_of(load()):
        finish(world, job)
    for form in ("csv", "parquet", "json"):
        assert run("results", "small", "--where", "layer=1", "--format", form, "-o", f"out.{form}") == 0
    frames = [pd.read_csv("out.csv"), pd.read_parquet("out.parquet"), pd.read_json("out.json")]
    assert [len(frame) for frame in frames] == [4, 4, 4]
    assert [set(frame["layer"]) for frame in frames] == [{1}, {1}, {1}]


@pytest.mark.parametrize(
    ("command", "where", "said"),
    [
        ("results", "layer=7", "`layer` 7; no layer of this sweep is that; expected one of `0`, `1`"),
        ("results", "layer=5..9", "`layer` '5..9'; no layer of this sweep is that; expected one of `0`, `1`"),
        ("results", "layer=0,7", "`layer` 7; no layer of this sweep is that; expected one of `0`, `1`"),
        ("results", "setting=mian", "`setting` 'mian'; no setting of this sweep is that; did you mean `main`?"),
        ("results", "experiment!=left", "`experiment` 'left'; no experiment of this sweep is that; "),
        ("cancel", "experiment=left_bondary", "no experiment of this sweep is that; did you mean `left_boundary`?"),
    ],
)
def test_a_value_that_matches_nothing_is_named(
    run: Run,
    load: LoadSweep,
    world: World,
    capsys: pytest.CaptureFixture[str],
    command: str,
    where: str,
    said: str,
) -> None:
    """A typing error in --where ends with 2 and what it may have meant; it is no empty table."""
    run("submit", "small.yaml")
    finish(world, jobs_of(load())[0])
    assert run(command, "small", "--where", where) == 2
    assert said in capsys.readouterr().err
    assert world.orders == []


def test_query_sees_rows_and_cells(document: Callable[..., Any], run: Run, load: LoadSweep, world: World) -> None:
    """SQL over `results` and `cells`."""
    run("submit", "small.yaml")
    finish(world, jobs_of(load())[0])
    sql = "SELECT state, count(*) AS n, count(iia) AS measured FROM cells LEFT JOIN results USING (cell_key) "
    sql += "GROUP BY ALL ORDER BY 1"
    assert document("query", "small", sql) == [
        {"state": "done", "n": 4, "measured": 4},
        {"state": "waiting", "n": 4, "measured": 0},
    ]


def test_cancel_asks_above_ten(run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A great number of jobs is cancelled only after a yes."""
    monkeypatch.setattr(steering, "ASK_ABOVE", 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    run("submit", "small.yaml")
    assert run("cancel", "small") == 1
    assert world.orders == []
    assert run("cancel", "small", "--yes") == 0
    assert [action for action, _ in world.orders] == [Control.CANCEL]


def test_without_a_terminal_the_answer_is_an_option(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody can answer, the error names --yes and nothing is done."""
    monkeypatch.setattr(steering, "ASK_ABOVE", 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    run("submit", "small.yaml")
    assert run("cancel", "small") == 2
    assert "--yes" in capsys.readouterr().err
    assert world.orders == []


def test_logs_of_a_job(run: Run, load: LoadSweep, capsys: pytest.CaptureFixture[str]) -> None:
    """The last lines of a job's log."""
    run("submit", "small.yaml")
    (load().folder.logs / "r1-0001.log").write_text("one\ntwo\nthree\n")
    capsys.readouterr()
    assert run("logs", "small", "r1-0001", "-n", "2") == 0
    assert capsys.readouterr().out == "two\nthree\n"


def test_check_reports_a_torn_shard(
    run: Run, load: LoadSweep, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard cut short is named, its cells are missing, and resume runs them."""
    run("submit", "small.yaml")
    first, second = jobs_of(load())
    finish(world, first)
    finish(world, second)
    path = load().folder.shards / f"{first.job}-0001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert run("check", "small") == 1
    assert f"{path}: torn shard" in capsys.readouterr().out
    assert run("resume", "small") == 0
    assert {cell.key for cohort in jobs_of(load())[2].cohorts for cell in cohort.cells} <= {
        cell.key for cohort in first.cohorts for cell in cohort.cells
    }
