"""What is found in a model is what its site's name says, or is refused with words."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from tests.unit.workers.tiny import CONFIGS, places_of, sharp_model
from workers.engine import sites
from workers.engine.check import inexact_sites
from workers.engine.meaning import check_meaning
from workers.engine.sites import SiteError, n_units, tap_of
from workers.files.place import Place
from workers.job.run import classed


@pytest.mark.parametrize("family", CONFIGS)
def test_every_site_of_every_family_is_what_it_is_called(family: str) -> None:
    """The closed forms hold for two places of each site that the family has."""
    model = sharp_model(family)
    for places in zip(*places_of(model, 0).values(), strict=True):
        check_meaning(model, places)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "phi3", "gpt_neox", "falcon", "codegen", "olmo2"])
def test_every_head_is_the_one_it_is_called(family: str) -> None:
    """Grouped, fused and interleaved projections: each query, key and value is its own head's."""
    model = sharp_model(family)
    for site in ("query", "key", "value"):
        count = n_units(model, 1, site)
        assert count is not None
        for unit in range(count):
            check_meaning(model, [Place(layer=1, position=0, site=site, unit=unit)])


@pytest.mark.parametrize(
    ("family", "layout", "site", "unit"),
    [
        ("phi3", "by group", "query", 2),
        ("phi3", "by group", "key", 1),
        ("gpt_neox", "side by side", "query", 1),
        ("gpt_neox", "side by side", "value", 0),
        ("codegen", "side by side", "key", 0),
        ("codegen", "side by side", "value", 0),
        ("gpt2", "by group", "head_output", 1),
    ],
)
def test_a_projection_laid_out_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch, family: str, layout: str, site: str, unit: int
) -> None:
    """Read by another family's table, the columns are another head's, or a key for a value."""
    monkeypatch.setattr(sites, "_fused_layout", lambda *_: layout)
    place = Place(layer=1, position=0, site=site, unit=unit)
    with pytest.raises(SiteError, match=f"site `{site}` at layer 1: what was found in .* is something else"):
        check_meaning(sharp_model(family), [place])


def test_a_parallel_block_that_hides_it_is_refused() -> None:
    """The norm before the MLP reads the block's input, so a stream put there decides nothing."""
    model = sharp_model("gpt_neox")
    hidden = copy.deepcopy(model.model.config)
    hidden.use_parallel_residual = False
    whole = copy.copy(model.model)
    whole.__dict__["config"] = hidden
    with pytest.raises(SiteError, match="`block_mid` at layer 1: what was found"):
        check_meaning(replace(model, model=whole), [Place(layer=1, position=0, site="block_mid")])


@pytest.mark.parametrize(
    ("family", "place", "message"),
    [
        ("llama", Place(layer=3, position=0), r"layer 3: the model has the layers 0\.\.2"),
        ("llama", Place(layer=0, position=0, site="heads"), "site 'heads' is unknown; the sites are block_output, "),
        ("llama", Place(layer=1, position=0, site="query", unit=4), r"unit 4 of 4 heads; expected 0\.\.3"),
        ("llama", Place(layer=1, position=0, site="key", unit=2), r"unit 2 of 2 key-value heads; expected 0\.\.1"),
        (
            "llama",
            Place(layer=1, position=0, site="value"),
            r"one of 2 key-value heads is meant; expected `unit` 0\.\.1",
        ),
        ("llama", Place(layer=1, position=0, site="mlp_neurons", unit=48), r"unit 48 of 48 neurons; expected 0\.\.47"),
        ("llama", Place(layer=1, position=0, site="mlp_output", unit=0), "the site has no units, and unit 0 is asked"),
        ("llama", Place(layer=1, position=0, site="embeddings"), "come before all layers; expected layer 0"),
        ("gptj", Place(layer=1, position=0, site="block_mid"), "both read the block's input, there is no residual"),
        ("mixtral", Place(layer=1, position=0, site="mlp_neurons"), "a mixture of experts, .* expected `mlp_output`"),
        ("deepseek_v3", Place(layer=1, position=0, site="key", unit=0), "has no projection of its own for it"),
    ],
)
def test_a_place_that_a_model_lacks_is_bad_input(family: str, place: Place, message: str) -> None:
    """The message names site and layer, and what is expected; nothing tries such a job again."""
    with pytest.raises(SiteError, match=message) as refused:
        tap_of(sharp_model(family), place)
    assert classed(refused.value).kind == "bad_input"


def test_only_the_sites_that_the_fast_engine_gets_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the engine took for one that later tokens do not see: that site is named, and no other."""
    monkeypatch.setattr("workers.engine.entering.REACHES_LATER_TOKENS", frozenset())
    places = [Place(layer=0, position=0, site=site, unit=0) for site in ("key", "query")]
    refused = inexact_sites(sharp_model("llama"), places)
    assert set(refused) == {"key"}
    assert "logits differ" in refused["key"]
