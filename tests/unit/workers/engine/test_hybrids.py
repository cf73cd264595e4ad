"""Hybrid decoders: right by the reference engine, which says why it is taken, and no site misleads."""

from __future__ import annotations

import contextlib

import pytest
import torch

from tests.unit.workers.hybrids import HYBRIDS, hybrid_model
from workers.engine.check import exact_form
from workers.engine.meaning import N_TOKENS, arbitrary_prompts, check_meaning
from workers.engine.reference import ReferenceEngine
from workers.engine.sites import SITES, SiteError, n_units
from workers.files.place import Place

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' word that it has no fast kernels here


@pytest.mark.parametrize("family", HYBRIDS)
def test_the_fast_engine_is_not_used(family: str) -> None:
    """Its cache of keys and values holds no recurrent state: the trial finds out, and the reason goes into the log."""
    model, why = exact_form(hybrid_model(family))
    assert model is None
    assert why


@pytest.mark.parametrize("family", HYBRIDS)
def test_the_reference_engine_equals_closed_forms(family: str) -> None:
    """The last block's output swapped at the last token is the source's answer. Its own vector changes nothing. A
    vector swapped in the middle reaches the last token, through recurrent states too."""
    model = hybrid_model(family)
    base, source = arbitrary_prompts(model)
    forward = ReferenceEngine(model).forward(base, source)
    with torch.no_grad():
        plain, of_source = (model.model(batch.ids_BT).logits[:, -1] for batch in (base, source))
    last, middle = Place(layer=model.n_layers - 1, position=N_TOKENS - 1), Place(layer=0, position=5)
    with torch.no_grad():
        answer, same, other = (
            forward.intervene([place], mix)[0]
            for place, mix in (
                (last, lambda _base, source: source),
                (middle, lambda base, _source: base),
                (middle, lambda _base, source: source),
            )
        )
    torch.testing.assert_close(answer, of_source)
    torch.testing.assert_close(same, plain)
    assert (other - plain).abs().max() > 1e-4


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("family", HYBRIDS)
def test_a_site_is_what_its_name_says_or_is_refused(family: str, site: str) -> None:
    """At every layer: the closed forms of the site hold, or the model is refused with site and layer."""
    model = hybrid_model(family)
    for layer in [0] if site == "embeddings" else range(model.n_layers):
        with contextlib.suppress(SiteError):
            unit = None if n_units(model, layer, site) is None else 0
            check_meaning(model, [Place(layer=layer, position=5, site=site, unit=unit)])


def test_what_a_hybrid_lacks_is_refused_by_name() -> None:
    """A layer without attention, a query that comes with a gate, a model without heads: the message says which."""
    for family, place, words in (
        ("lfm2", Place(layer=0, position=5, site="head_output", unit=0), "layer 0: Lfm2DecoderLayer has no attention"),
        ("qwen3_next", Place(layer=3, position=5, site="query", unit=0), "each head's query and a gate in one"),
        ("mamba2", Place(layer=0, position=5, site="query", unit=0), "Mamba2Block has no attention"),
    ):
        with pytest.raises(SiteError, match=words):
            check_meaning(hybrid_model(family), [place])
