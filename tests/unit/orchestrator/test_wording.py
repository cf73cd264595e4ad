"""How numbers are said to people."""

from __future__ import annotations

import pytest

from orchestrator.wording import counted


@pytest.mark.parametrize(("number", "said"), [(0, "0 cells"), (1, "1 cell"), (2, "2 cells"), (1000, "1,000 cells")])
def test_a_number_has_its_noun(number: int, said: str) -> None:
    """In the singular for one alone."""
    assert counted(number, "cell") == said
