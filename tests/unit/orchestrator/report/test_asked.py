"""What the page says that was asked: the spec, and a prompt with the grid's positions marked."""

from __future__ import annotations

from pathlib import Path

from orchestrator.report.asked import Asked, asked_by, asked_section
from orchestrator.spec.schema import SweepSpec
from orchestrator.sweep import Sweep


def demo_spec(project: Path) -> SweepSpec:
    """The spec of the demo."""
    return Sweep.load(project / "examples" / "demo.yaml").spec


def test_the_prompt_marks_the_positions_of_the_grid(project: Path) -> None:
    """13 tokens of the demo's prompts are in its grid, each with its number; the spec is there as text."""
    section = asked_section(asked_by(demo_spec(project)))
    assert section.count("class='in-grid'") == 13
    assert "<span class='in-grid' title='position 81" in section
    assert "experiments:" in section


def test_without_its_model_a_sweep_still_shows_its_spec(project: Path, tmp_path: Path) -> None:
    """A report of a sweep whose model was moved has the spec and no prompt."""
    spec = demo_spec(project)
    moved = spec.model_copy(update={"model": spec.model.model_copy(update={"path": str(tmp_path / "gone")})})
    asked = asked_by(moved)
    assert asked.prompt is None
    assert "gone" in asked_section(asked)


def test_texts_are_escaped_and_nothing_is_shown_of_nothing() -> None:
    """Markup in a spec stays text; a store without its sweep has no such section."""
    assert "&lt;script&gt;" in asked_section(Asked(spec="<script>"))
    assert asked_section(None) == ""
