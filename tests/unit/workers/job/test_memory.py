"""How many cells fit into memory."""

from __future__ import annotations

import os

import pytest
import torch

from workers.job.memory import cells_that_fit

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_gib_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has 2^18 free pages of 4 KiB."""
    set_free(monkeypatch, gib=1)


def set_free(monkeypatch: pytest.MonkeyPatch, *, gib: int) -> None:
    free = {"SC_AVPHYS_PAGES": gib << 18, "SC_PAGE_SIZE": 1 << 12}
    monkeypatch.setattr(os, "sysconf", free.__getitem__)


def test_half_of_the_memory_goes_to_rotations() -> None:
    """A cell of hidden size 1024 takes five float32 matrices, 20 MiB; 512 MiB hold 25 of them."""
    assert cells_that_fit(1024, CPU) == 25


def test_the_papers_grid_is_one_cohort_beside_a_7b_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """66 GiB are free on a GPU of 80 once the weights are loaded: enough for a hypothesis's 91 cells."""
    set_free(monkeypatch, gib=66)
    assert cells_that_fit(4096, CPU) >= 91


def test_one_cell_is_always_tried() -> None:
    """At hidden size 16384 one cell takes 5 GiB: it may still fail, but is not given up unseen."""
    assert cells_that_fit(16384, CPU) == 1


def test_hidden_states_to_be_fitted_on_count_too() -> None:
    """20,000 of hidden size 1024 take 78 MiB, more than the rotation: 512 MiB hold 6 cells."""
    assert cells_that_fit(1024, CPU, n_states=20_000) == 6
