"""docs/api.md says what the docstrings say."""

from __future__ import annotations

from orchestrator.sweep import Sweep
from tests.api_page import PAGE, page


def test_the_page_is_made_from_the_docstrings() -> None:
    """After a change to a docstring or a signature, `python -m tests.api_page` writes it anew."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_public_method_is_on_the_page() -> None:
    """What users may call is there with its parameters."""
    text = page()
    for name in ("Sweep.load", "Sweep.compare", "Sweep.alignment", "LearnedAlignment.hook", "load_alignment"):
        assert f" {name}\n" in text or f".{name}\n" in text
    assert "SpecError" in text
    assert all(f"Sweep.{name}" in text for name in vars(Sweep) if not name.startswith("_"))
