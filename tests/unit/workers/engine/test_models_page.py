"""The table of families and sites in docs/models.md: made from the models themselves, so that it cannot go stale.

`python -m tests.unit.workers.engine.test_models_page` writes it anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.workers.hybrids import HYBRIDS, hybrid_model
from tests.unit.workers.tiny import CONFIGS, sharp_model
from workers.engine.meaning import check_meaning
from workers.engine.sites import SITES, SiteError, n_units
from workers.files.place import Place

PAGE = Path(__file__).parents[4] / "docs" / "models.md"
BEGIN, END = "<!-- sites: begin -->\n", "<!-- sites: end -->\n"
HYBRID_BEGIN, HYBRID_END = "<!-- hybrids: begin -->\n", "<!-- hybrids: end -->\n"


def refusal(family: str, site: str) -> str:
    """Why the family lacks the site, without the model's own names; empty where it has it."""
    model, layer = sharp_model(family), 0 if site == "embeddings" else 1
    try:
        unit = None if n_units(model, layer, site) is None else 0
        check_meaning(model, [Place(layer=layer, position=0, site=site, unit=unit)])
    except SiteError as error:
        return re.sub(
            r"\b[A-Z]\w+(ForCausalLM|Attention|MLP|MoE|MoeBlock)\b", "this family", str(error).split(": ", 1)[1]
        )
    return ""


def hybrid_refusal(family: str, site: str) -> str:
    """Why no layer of the hybrid decoder has the site; empty where some has it."""
    model = hybrid_model(family)
    whys = []
    for layer in [0] if site == "embeddings" else range(model.n_layers):
        try:
            unit = None if n_units(model, layer, site) is None else 0
            check_meaning(model, [Place(layer=layer, position=0, site=site, unit=unit)])
        except SiteError as error:
            whys.append(str(error))
        else:
            return ""
    return re.sub(r"^site `\w+` at layer \d+: ", "", whys[-1])


def hybrid_table() -> str:
    """Hybrid decoders by sites: `x` where some layer has the site."""
    lines = ["| | " + " | ".join(f"`{site}`" for site in SITES) + " |", "|---" * (len(SITES) + 1) + "|"]
    for family in HYBRIDS:
        cells = ["no" if hybrid_refusal(family, site) else "x" for site in SITES]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def table() -> str:
    """Families by sites, `x` where the site is there, and a number for each reason below."""
    reasons: list[str] = []
    lines = ["| | " + " | ".join(f"`{site}`" for site in SITES) + " |", "|---" * (len(SITES) + 1) + "|"]
    for family in CONFIGS:
        cells = []
        for site in SITES:
            why = refusal(family, site)
            if why and why not in reasons:
                reasons.append(why)
            cells.append(f"({reasons.index(why) + 1})" if why else "x")
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    notes = [f"{number}. {why}" for number, why in enumerate(reasons, start=1)]
    return "\n".join([*lines, "", *notes, ""])


def test_the_page_has_the_table_of_today() -> None:
    """Written anew, the page is as it is."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == table()


@pytest.mark.filterwarnings("ignore")  # transformers' word that it has no fast kernels here
def test_the_page_has_the_table_of_hybrid_decoders() -> None:
    """Likewise."""
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(HYBRID_BEGIN)[1].split(HYBRID_END)[0] == hybrid_table()


def written(text: str, begin: str, content: str, end: str) -> str:
    """The page with new content between two marks."""
    head, _, rest = text.partition(begin)
    return head + begin + content + end + rest.partition(end)[2]


if __name__ == "__main__":
    page = written(PAGE.read_text(encoding="utf-8"), BEGIN, table(), END)
    PAGE.write_text(written(page, HYBRID_BEGIN, hybrid_table(), HYBRID_END), encoding="utf-8")
