"""How many cells fit into memory."""

from __future__ import annotations

import pytest
import torch

from workers.job import memory
from workers.job.memory import cells_that_fit

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_gib_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may take 1 GiB."""
    set_available(monkeypatch, gib=1)


def set_available(monkeypatch: pytest.MonkeyPatch, *, gib: int) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: gib << 30)


def test_half_of_the_memory_goes_to_rotations() -> None:
    """A cell of hidden size 1024 takes five float32 matrices, 20 MiB; 512 MiB hold 25 of them."""
    assert cells_that_fit(1024, CPU) == 25


def test_the_papers_grid_is_one_cohort_beside_a_7b_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """66 GiB are free on a GPU of 80 once the weights are loaded: enough for a hypothesis's 91 cells."""
    set_available(monkeypatch, gib=66)
    assert cells_that_fit(4096, CPU) >= 91


def test_one_cell_is_always_tried() -> None:
    """At hidden size 16384 one cell takes 5 GiB: it may still fail, but is not given up unseen."""
    assert cells_that_fit(16384, CPU) == 1


def test_hidden_states_to_be_fitted_on_count_too() -> None:
    """20,000 of hidden size 1024 take 78 MiB, more than the rotation: 512 MiB hold 6 cells."""
    assert cells_that_fit(1024, CPU, n_states=20_000) == 6
