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


# Phrases that a reader has to read twice, and a comment or docstring that opens with a bare "of".
AVOIDED = re.compile(r"\bgoes on\b|\bso many(?:th)?\b|\bstands (?!for\b)\w+|#\s+of\s|\"\"\"Of\s")


def sources() -> list[Path]:
    """The pages and all Python files of the project, this one aside."""
    rooms = ("orchestrator", "workers", "cluster", "causalsweep", "tests", "benchmarks", "examples")
    files = [file for room in rooms for file in (PROJECT / room).rglob("*.py") if file != Path(__file__)]
    return [*PAGES, *files]


def test_no_sentence_uses_a_phrase_that_has_to_be_read_twice() -> None:
    """Neither in the docs nor in the code."""
    found = [
        f"{file.relative_to(PROJECT)}: {match.group()}"
        for file in sources()
        for match in AVOIDED.finditer(file.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert AVOIDED.search("# of a place")
    assert AVOIDED.search("it stands there")
    assert not AVOIDED.search("it stands for")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_sentences_are_short(page: Path) -> None:
    """At most 18 words a sentence on average; code, tables and headings aside."""
    text = re.sub(r"```.*?```|<[^>]+>|\]\([^)]*\)", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = [
        block for block in re.split(r"\n\s*\n|\n(?=\s*[-#*|])", text) if not block.lstrip().startswith(("|", "#"))
    ]
    sentences = [sentence.split() for block in blocks for sentence in re.split(r"(?<=[.!?])\s+", block)]
    lengths = [len(words) for words in sentences if len(words) > 2]
    assert sum(lengths) / len(lengths) <= 18
