"""What a job leaves of how its cells learned: curves and pairs, beside rows that do not depend on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.local.jobs import make_cohort, rows_of, run, write_job
from workers.files.failure import EXIT_FINISHED
from workers.files.folder import SweepFolder
from workers.files.traces import read_traces

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def job_file(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """Three cells on ten test pairs."""
    path = write_job(tmp_path_factory.mktemp("traces"), demo_model, [make_cohort(demo_model, n_test=10)])
    code, log = run(path)
    assert code == EXIT_FINISHED, log
    return path


def test_the_pairs_say_what_the_counts_count(job_file: Path) -> None:
    """With ten test pairs the answers that are the label are as many as the row has right ones, before and after."""
    traces, rows = read_traces(SweepFolder(job_file.parents[1])), rows_of(job_file)
    assert len(traces) == len(rows) == 3
    for (key, _), row in rows.items():
        trace = traces[key]
        for name, count in (("after", "n_correct"), ("before", "n_correct_none")):
            assert sum(a == b for a, b in zip(trace[name], trace["label"], strict=True)) == row[count]
        assert all("dollars" in text for text in (*trace["base"], *trace["source"]))
        assert set(trace["variable"]) == {"P"}


def test_the_curves_end_where_the_training_does(job_file: Path) -> None:
    """Twenty steps: the mean of the losses of the last tenth is the row's loss."""
    traces, rows = read_traces(SweepFolder(job_file.parents[1])), rows_of(job_file)
    for (key, _), row in rows.items():
        assert traces[key]["loss_step"][-1] == row["steps"] == 20
        assert sum(traces[key]["loss"][-2:]) / 2 == pytest.approx(row["loss"], rel=1e-5)
