"""docs/methods.md: every intervention has its paragraph, and every block is a part of a spec that can be planned."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.grid.expand import expand
from orchestrator.spec.schema import load_spec
from orchestrator.spec.text import parse_yaml
from tests.unit.orchestrator.specs import raw_spec, spec_of
from tests.unit.workers.autoencoders import random_arrays, save_saelens
from workers.methods.settings import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_every_intervention_has_a_paragraph() -> None:
    """A heading names it."""
    headings = re.findall(r"^### (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(headings)))
    assert {name for name, kind in METHODS.items() if kind.metric == "iia"} <= named


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_page_can_be_planned(block: str, tmp_path: Path, demo_model: Path) -> None:
    """In the small sweep on the demo's model, with an autoencoder of its width beside the spec."""
    save_saelens(tmp_path / "my-sae", random_arrays(64, 90))
    part: dict[str, Any] = parse_yaml(block, "docs/methods.md")
    raw = raw_spec(model={"path": str(demo_model), "dtype": "float32"})
    raw |= part | {"grid": raw["grid"] | part.get("grid", {})}
    assert expand(spec_of(raw, tmp_path)).n_cells > 0


def test_the_example_names_every_method_that_needs_no_file(project: Path) -> None:
    """examples/methods.yaml can be planned, and has each intervention but the autoencoder's."""
    grid = expand(load_spec(project / "examples" / "methods.yaml"))
    names = {strand.stream.method["name"] for strand in grid.strands}
    assert names == {name for name, kind in METHODS.items() if kind.metric == "iia"} - {"sae"}
