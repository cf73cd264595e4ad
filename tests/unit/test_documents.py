"""README, CONTRIBUTING and the pages below docs/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PAGES = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), PROJECT / "benchmarks" / "README.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    """A link that is no address on the web names a file that is there, relative to its page."""
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_the_readme_links_to_the_pages_for_contributors(page: str) -> None:
    """Whoever wants to work on the project finds the way from the README."""
    assert f"]({page})" in (PROJECT / "README.md").read_text(encoding="utf-8")
