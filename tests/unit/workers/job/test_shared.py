"""Several methods of a job that read the same prompts share one forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.workers.files.test_job import JOB
from tests.unit.workers.tiny import at, random_pairs, sharp_model
from workers.files.job import Cohort, JobCell
from workers.job import shared
from workers.job.engines import Engines
from workers.job.shared import TRAIN, SharedStates
from workers.methods.settings import method_settings
from workers.methods.states import PromptStates

PAIRS = random_pairs(8, 12)


class Clock:
    """A monitor that times nothing."""

    @contextmanager
    def timed(self, _name: str) -> Iterator[None]:
        yield


def cohort_of(method: str, *layers: int, seed: int = 1) -> Cohort:
    """A cohort of cells of this method at position 11."""
    (cohort,) = JOB.cohorts
    stream = replace(cohort.stream, method=method_settings(method, {}), seed=seed, engine="suffix")
    cells = tuple(JobCell(key=f"{method}{place.layer}", place=place, token="") for place in at(11, *layers))
    return replace(cohort, stream=stream, cells=cells)


def shared_states(*cohorts: Cohort) -> SharedStates:
    job = replace(JOB, cohorts=cohorts)
    clock: Any = Clock()
    return SharedStates(cohorts, Engines(job, sharp_model("llama"), print), clock)


def read_all(states: PromptStates) -> PromptStates:
    """The same, after one pass."""
    for _, run in states.runs():
        run.at(sorted(states.places, key=lambda place: place.rank)[:1])
    return states


def test_methods_of_the_same_data_share_one_forward() -> None:
    """A probe and a principal component at other layers, fitted on the same prompts: the second runs nothing."""
    probe, component = cohort_of("linear_probe", 0), cohort_of("pca", 1)
    states = shared_states(probe, component)
    first = read_all(states.of(probe, PAIRS, TRAIN, micro_batch=4))
    second = read_all(states.of(component, PAIRS, TRAIN, micro_batch=4))
    assert first is second
    assert second.n_forwards == 2


def test_readings_share_the_forward_of_a_setting() -> None:
    """A probe and a lens are measured on the same prompts; the lens reads the last block too."""
    probe, lens = cohort_of("linear_probe", 0), cohort_of("logit_lens", 1)
    states = shared_states(probe, lens)
    first = read_all(states.of(probe, PAIRS, "main", micro_batch=4))
    assert first.places == {*at(11, 0, 1, 2)}
    assert states.of(lens, PAIRS, "main", micro_batch=4) is first


def test_an_intervention_has_no_part_in_what_is_kept_for_readings() -> None:
    """Its test pairs go through tails; one reading alone keeps nothing."""
    probe, das = cohort_of("linear_probe", 0), cohort_of("das", 1)
    found = read_all(shared_states(probe, das).of(probe, PAIRS, "main", micro_batch=4))
    assert (found.places, found.is_kept) == ({*at(11, 0)}, False)


def test_other_data_is_never_mixed_up() -> None:
    """Another seed has other prompts, and another setting too."""
    one, other = (cohort_of("linear_probe", 0, seed=seed) for seed in (1, 2))
    states = shared_states(one, cohort_of("pca", 0), other, cohort_of("pca", 0, seed=2))
    first = read_all(states.of(one, PAIRS, TRAIN, micro_batch=4))
    assert states.of(other, PAIRS, TRAIN, micro_batch=4) is not first


def test_what_memory_does_not_hold_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little of it each method has its own forward, and reads its own places alone."""
    monkeypatch.setattr(shared, "available_device_bytes", lambda _device: 100)
    probe, component = cohort_of("linear_probe", 0), cohort_of("pca", 1)
    found = read_all(shared_states(probe, component).of(probe, PAIRS, TRAIN, micro_batch=4))
    assert (found.places, found.is_kept) == ({*at(11, 0)}, False)
