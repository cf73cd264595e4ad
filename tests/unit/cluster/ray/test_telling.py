"""What a dispatcher says: the line that leads with what is done, why a job waits, and the sizes in labels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from cluster.backend import JobRequest, JobState
from cluster.ray.metrics import Reading
from cluster.ray.record import Batch, JobRecord, RayJobOptions
from cluster.ray.sizes import amounts, size_of
from cluster.ray.starting import _metadata
from cluster.ray.task import run_job
from cluster.ray.telling import Told, line, why_waiting


def request(name: str, label: str = "left_boundary L2 (7 cells)") -> JobRequest:
    """A job with a label."""
    return JobRequest(name=name, label=label, argv=("true",), log=Path("log"), time_s=1.0)


def told(name: str, state: JobState, *readings: Reading, detail: str = "", label: str = "l (7 cells)") -> Told:
    """A job in some state."""
    return Told(request=request(name, label), record=JobRecord(state=state, detail=detail), readings=readings)


def done(n: float, hypothesis: str = "h") -> Reading:
    """Cells done."""
    return Reading("cells_done", n, "sum", (("hypothesis", hypothesis),))


@pytest.mark.parametrize(
    ("label", "size"),
    [("a L2 (7 cells)", (7, "cells")), ("a (1 cell)", (1, "cells")), ("resume x", (1, "jobs")), ("(x)", (1, "jobs"))],
)
def test_a_label_says_how_much_is_in_a_job(label: str, size: tuple[int, str]) -> None:
    """The number and its unit, in the plural; a label that says nothing is one job."""
    assert size_of(request("a", label)) == size


def test_the_line_leads_with_what_is_done_of_all() -> None:
    """A job that completed counts whole, one that runs with what it published; then the best, failures, waiting."""
    jobs = [
        told("r1-1", JobState.COMPLETED),
        told("r1-2", JobState.RUNNING, done(3), Reading("best_iia", 0.5, "max", (("hypothesis", "h"),))),
        told(
            "r1-3", JobState.FAILED, done(1), Reading("best_iia", 0.75, "max", (("hypothesis", "g"),)), detail="exit 70"
        ),
        told("r1-4", JobState.PENDING, detail="waits for 1 GPU: no GPU of 16 is free"),
        told("r1-5", JobState.HELD),
        told("r1-6", JobState.CANCELLED),
    ]
    assert line("demo", jobs) == (
        "demo: 11 of 42 cells done; best IIA g 0.750, h 0.500; 1 failed: r1-3 exit 70; 1 cancelled; 1 running; "
        "1 waiting (waits for 1 GPU: no GPU of 16 is free); 1 held"
    )


def test_a_line_of_jobs_without_sizes_counts_jobs() -> None:
    """Their labels name no cells."""
    assert line("demo", [told("a", JobState.COMPLETED, label="x"), told("b", JobState.PENDING, label="y")]) == (
        "demo: 1 of 2 jobs done; 1 waiting"
    )


def test_cells_of_a_job_that_died_before_it_published_are_counted() -> None:
    """A gauge counts cells by the state of their job: all cells are in it, whatever a job has published."""
    jobs = [
        (request("a"), JobRecord(state=JobState.FAILED)),
        (request("b", "l (2 cells)"), JobRecord(state=JobState.FAILED)),
        (request("c"), JobRecord(state=JobState.PENDING)),
    ]
    assert amounts(jobs) == Counter({("cells", JobState.FAILED): 9, ("cells", JobState.PENDING): 7})


@pytest.mark.parametrize(
    ("needs", "free", "said"),
    [
        ({"GPU": 1.0, "CPU": 1.0}, {"GPU": 2.0, "CPU": 4.0}, ""),
        ({"GPU": 1.0, "CPU": 1.0}, {"CPU": 4.0}, "waits for 1 GPU, 1 CPU: no GPU of 16 is free"),
        ({"GPU": 0.0, "CPU": 0.5}, {"GPU": 1.0}, "waits for 0.5 CPU: no CPU of 32 is free"),
        ({"GPU": 1.0, "big": 2.0}, {"GPU": 1.0}, "waits for 1 GPU, 2 big: no big of 0 is free"),
    ],
)
def test_a_job_that_waits_says_for_what(needs: dict[str, float], free: dict[str, float], said: str) -> None:
    """What it asks for, and which of it is not free."""
    assert why_waiting(needs, free, {"GPU": 16.0, "CPU": 32.0}) == said


def test_a_task_that_was_withdrawn_does_nothing(tmp_path: Path) -> None:
    """It ends well, so that the dashboard shows no failure, and starts no command."""
    mark = tmp_path / "mark"
    mark.touch()
    assert list(run_job({"withdrawn": str(mark)})) == [{"declined": True}]


def test_a_look_at_the_nodes_is_not_called_as_the_sweep(tmp_path: Path) -> None:
    """The dashboard's list tells a doctor from a sweep; a sweep has its numbers of jobs and cells."""
    batch = Batch(name="n", sweep="demo", submitted=0.0, options=RayJobOptions(), requests=())
    assert _metadata(tmp_path, batch) == {"job_name": "doctor of demo", "folder": str(tmp_path)}
    sweep = Batch(name="n", sweep="demo", submitted=0.0, options=RayJobOptions(), requests=(request("a"), request("b")))
    assert list(_metadata(tmp_path, sweep).items())[:3] == [("job_name", "demo"), ("jobs", "2"), ("cells", "14")]
