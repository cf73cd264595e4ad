"""docs/methods.md: every method has its paragraph, and every block is a part of a spec that can be planned."""

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
BLOCK = r"^```yaml\n(.*?)^```$"
BLOCKS = re.findall(BLOCK, PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
NAMES = re.compile(r"`(\w+)`")


def test_every_method_has_a_paragraph() -> None:
    """A heading names it, and the paragraph has a source and a block that uses it."""
    _, *sections = re.split(r"^### (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = zip(sections[::2], sections[1::2], strict=True)
    text_of = {name: text for heading, text in parts for name in NAMES.findall(heading)}
    assert METHODS.keys() == text_of.keys()
    for name, text in text_of.items():
        assert "Source:" in text, name
        assert any(name in block for block in re.findall(BLOCK, text, flags=re.DOTALL | re.MULTILINE)), name


def test_every_reading_says_its_unit_and_its_null() -> None:
    """In its paragraph."""
    text = PAGE.read_text(encoding="utf-8").partition("## Readings")[2].partition("## Chains")[0]
    _, *sections = re.split(r"^### (.*)$", text, flags=re.MULTILINE)
    named = [name for heading in sections[::2] for name in NAMES.findall(heading)]
    assert sorted(named) == sorted(name for name, kind in METHODS.items() if not kind.changes_model)
    for text in sections[1::2]:
        assert re.search(r"Unit( and null)?: ", text)
        assert re.search(r"([Nn]ull|Unit and null): ", text)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_page_can_be_planned(block: str, tmp_path: Path, demo_model: Path) -> None:
    """In the small sweep on the demo's model, with an autoencoder of its width beside the spec."""
    save_saelens(tmp_path / "my-sae", random_arrays(64, 90))
    part: dict[str, Any] = parse_yaml(block, "docs/methods.md")
    raw = raw_spec(model={"path": str(demo_model), "dtype": "float32"})
    raw |= part | {"grid": raw["grid"] | part.get("grid", {})}
    assert expand(spec_of(raw, tmp_path)).n_cells > 0


def test_the_example_names_every_method_that_needs_no_file(project: Path) -> None:
    """examples/methods.yaml can be planned, and has each method but the autoencoder's."""
    grid = expand(load_spec(project / "examples" / "methods.yaml"))
    names = {strand.stream.method["name"] for strand in grid.strands}
    assert names == METHODS.keys() - {"sae"}
