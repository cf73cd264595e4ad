"""A job at a site that the engines cannot intervene on: refused, and never run at another site."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.workers.files.test_job import JOB
from workers.data.model_info import ModelError
from workers.files.job import Job
from workers.files.place import Place
from workers.files.progress import FailureClass
from workers.job.run import check_sites, classed


def job_at(place: Place, folder: Path) -> Job:
    """A job with one cell there."""
    (cohort,) = JOB.cohorts
    cells = (replace(cohort.cells[0], place=place),)
    return replace(JOB, folder=str(folder), cohorts=(replace(cohort, cells=cells),))


def test_another_site_is_bad_input(tmp_path: Path) -> None:
    """Named, with what would be right; no retry would help."""
    job = job_at(Place(layer=0, position=80, site="head_output", unit=1), tmp_path)
    with pytest.raises(ModelError, match=r"got head_output; this version runs cells at block_output alone") as caught:
        check_sites(job)
    assert classed(caught.value).kind is FailureClass.BAD_INPUT


def test_the_output_of_a_block_is_run(tmp_path: Path) -> None:
    """The default site passes."""
    check_sites(job_at(Place(layer=0, position=80), tmp_path))
