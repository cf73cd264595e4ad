"""What `run` says at its end: time, what was found, why cells were kept out, what to type next."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cluster.backend import JobState
from orchestrator import cli
from orchestrator.cli.ending import ending
from orchestrator.cli.render import status_view
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, finish, jobs_of, set_state, write_progress, write_shard
from workers.files.gate import count_interval
from workers.files.progress import GATE_NOTE, AttemptState

ATTENTION = {
    "experiments": ["left_boundary"],
    "layers": [0],
    "positions": [80],
    "sites": [{"head_output": [0]}],
}


def test_a_finished_run_says_what_was_found(
    load: LoadSweep, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock's time, the best place of each map with its controls, and two commands."""
    load().submit()
    for job in jobs_of(load()):
        finish(world, job)
        write_shard(job, metric="iia", n_correct_none=61, n_correct_full=73, n_correct_random=58)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["causalsweep", "run", "small.yaml"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].startswith("small: all 8 cells done in ")
    assert lines[-4].endswith(" of workers' time in all)")
    controls = "(no intervention 0.610, random rotation 0.580, whole vector 0.730)"
    assert lines[-3] == f"  left_boundary: best IIA 0.700 at L0 p80 {controls}"
    assert lines[-2].startswith("  bracket_identity: best IIA 0.700 at L0 p80")
    assert lines[-1] == "next: causalsweep summary small; causalsweep report small"


def test_the_best_place_of_a_reading_is_named_with_its_metric_and_site(load: LoadSweep, world: World) -> None:
    """Attention is no accuracy: its own name, unit and null, and the site where it was read."""
    load(method="attention_pattern", grid=ATTENTION).submit()
    for job in jobs_of(load(method="attention_pattern", grid=ATTENTION)):
        finish(world, job)
        write_shard(job, metric="attention", sum_attention=40.0, sum_attention_sq=20.0, sum_attention_random=2.0)
    sweep = load(method="attention_pattern", grid=ATTENTION)
    said = ending(sweep, sweep.status(), wall_s=3.0, was_stopped=False)
    best = "best attention 0.400 share of the query's attention at L0 h0 p80"
    assert f"left_boundary, head_output: {best} (equal attention to every token in sight 0.020)" in said


def test_a_gate_that_fails_says_by_how_much_and_what_the_model_said(load: LoadSweep, world: World) -> None:
    """Accuracy, interval, threshold, and the worker's notes on wrong answers, once however many jobs noted them."""
    load().submit()
    note = f"{GATE_NOTE}...'### Response:': it says 'No', 'Yes' is right"
    for job in jobs_of(load()):
        reason = "task accuracy 0.7000 is below the gate's 0.8000"
        counts = {"task_accuracy": 0.7, "task_n_correct": 700, "task_n_total": 1000}
        write_shard(job, status="skipped", reason=reason, **counts)
        write_progress(job, AttemptState.FINISHED, notes=(note, "of something else"))
        set_state(world, job.job, JobState.COMPLETED)
    sweep = load()
    said = ending(sweep, sweep.status(), wall_s=3.0, was_stopped=False)
    threshold = f"gate.task_accuracy is {sweep.spec.gate.task_accuracy}"
    assert f"700 of 1,000 prompts right, 0.700 (95 % interval 0.671 to 0.728); {threshold}" in said
    assert said.count("it says 'No', 'Yes' is right") == 1
    assert "something else" not in said
    assert "next:" not in said


def test_a_gate_that_fails_early_says_how_many_prompts_there_are(load: LoadSweep, world: World) -> None:
    """The interval is that of all prompts: 10 of 64 were right, in random order."""
    load().submit()
    for job in jobs_of(load()):
        reason = "task accuracy 0.1562 of 64 of 1000 prompts is below the gate's 0.8000"
        write_shard(job, status="skipped", reason=reason, task_accuracy=10 / 64, task_n_correct=10, task_n_total=64)
        set_state(world, job.job, JobState.COMPLETED)
    sweep = load()
    said = ending(sweep, sweep.status(), wall_s=3.0, was_stopped=False)
    low, high = count_interval(10, 64, 1000, error=0.05)
    wanted = (
        f"10 of 64 prompts right, of 1,000 that there are, 0.156 (95 % interval {low / 1000:.3f} to {high / 1000:.3f})"
    )
    assert wanted in said


def test_a_stop_is_no_failure(load: LoadSweep, world: World) -> None:
    """After Ctrl-C jobs and the last line say that the checkpoint is kept, and how to continue."""
    load().submit()
    for job in jobs_of(load()):
        write_progress(job, AttemptState.INTERRUPTED)
        set_state(world, job.job, JobState.CANCELLED)
    sweep = load()
    status = sweep.status()
    said = ending(sweep, status, wall_s=3.0, was_stopped=True)
    assert said.startswith("small: stopped, checkpoint kept; 8 missing")
    assert said.endswith("what is left: causalsweep resume small")
    shown = io.StringIO()
    Console(width=200, file=shown).print(status_view(status))
    assert shown.getvalue().count("stopped, checkpoint kept") == 2
