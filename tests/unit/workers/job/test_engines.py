"""The engines of a job: every site tried before the first cohort; what a model lacks refused, what is inexact said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.unit.workers.files.test_job import JOB
from tests.unit.workers.tiny import sharp_model
from workers.engine.reference import ReferenceEngine
from workers.engine.sites import SiteError
from workers.engine.suffix import SuffixEngine
from workers.files.failure import FailureClass
from workers.files.job import Job, JobCell
from workers.files.place import Place
from workers.job.engines import Engines
from workers.job.failures import classed

HEAD = Place(layer=1, position=0, site="head_output", unit=3)
KEY = Place(layer=0, position=0, site="key", unit=1)
OUTPUT = Place(layer=0, position=0)


def job_at(places: Sequence[Place]) -> Job:
    """A job with a cell at each place."""
    (cohort,) = JOB.cohorts
    cells = tuple(JobCell(key=str(index), place=place, token="") for index, place in enumerate(places))
    return replace(JOB, cohorts=(replace(cohort, cells=cells),))


def test_a_site_that_the_model_lacks_is_bad_input_before_anything_runs() -> None:
    """Named, with what is expected; no retry would help."""
    job = job_at([OUTPUT, replace(HEAD, unit=4)])
    with pytest.raises(SiteError, match=r"`head_output` at layer 1: unit 4 of 4 heads; expected 0\.\.3") as caught:
        Engines(job, sharp_model("llama"), print)
    assert classed(caught.value).kind is FailureClass.BAD_INPUT


def test_cells_of_every_site_run_in_the_fast_engine() -> None:
    """Nothing is said, and widths are the sites' own."""
    said: list[str] = []
    engines = Engines(job_at([OUTPUT, HEAD, KEY]), sharp_model("llama"), said.append)
    assert engines.kind("suffix", [OUTPUT, HEAD, KEY]) is SuffixEngine
    assert engines.kind("reference", [OUTPUT]) is ReferenceEngine
    assert ([engines.width_of(place) for place in (OUTPUT, HEAD, KEY)], said) == ([32, 8, 8], [])


def test_a_site_that_the_fast_engine_gets_wrong_is_run_by_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells alone, and a line says which site and why."""
    monkeypatch.setattr("workers.engine.entering.REACHES_LATER_TOKENS", frozenset())
    said: list[str] = []
    engines = Engines(job_at([OUTPUT, HEAD, KEY]), sharp_model("llama"), said.append)
    assert engines.kind("suffix", [OUTPUT, KEY]) is ReferenceEngine
    assert engines.kind("suffix", [OUTPUT, HEAD]) is SuffixEngine
    (line,) = said
    assert line.startswith("LlamaForCausalLM is run by the reference engine at `key`, the suffix engine is not exact: ")
