"""How many cells fit into memory."""

from __future__ import annotations

import os

import pytest
import torch

from workers.memory import cells_that_fit

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_gib_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has 2^18 free pages of 4 KiB."""
    free = {"SC_AVPHYS_PAGES": 1 << 18, "SC_PAGE_SIZE": 1 << 12}
    monkeypatch.setattr(os, "sysconf", free.__getitem__)


def test_half_of_the_memory_goes_to_rotations() -> None:
    """A cell of hidden size 1024 takes six float32 matrices, 24 MiB; 512 MiB hold 21 of them."""
    assert cells_that_fit(1024, CPU) == 21


def test_one_cell_is_always_tried() -> None:
    """At hidden size 16384 one cell takes 6 GiB: it may still fail, but is not given up unseen."""
    assert cells_that_fit(16384, CPU) == 1


def test_hidden_states_to_be_fitted_on_count_too() -> None:
    """20,000 of hidden size 1024 take 78 MiB, more than the rotation: 512 MiB hold 6 cells."""
    assert cells_that_fit(1024, CPU, n_states=20_000) == 6
