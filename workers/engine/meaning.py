"""Whether what `workers.engine.sites` found in a model is what the site's name says: tried on the model itself.

The tables there know families by the names of their submodules, and names can mislead. So before a job works inside
blocks, closed forms are tried on a few arbitrary prompts:

    attention_output, mlp_output    what the module returns is what its last projection returns
    block_mid       with another prompt's stream there, the MLP and the block return what they return for that prompt
    embeddings      with another token's embedding there, the model says what it says of that token
    query           changes this head's output at this token, and nothing else's
    key, value      changes the outputs of the heads that share it, and of no other; the first token attends to itself
                    alone, so a change of its value is, up to a factor, the change of the head's output

Shapes, by suffix: B prompts, T tokens, H heads, E head size, W width of a site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from workers.engine.base import TokenBatch
from workers.engine.model import LanguageModel
from workers.engine.sites import SiteError, check_no_gate, has_experts, n_units, name_of, tap_of
from workers.files.place import Place

N_TOKENS: Final = 12
TOLERANCES: Final = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # relative to the largest value
_UNTOUCHED: Final = 1e-3  # relative to the largest change


def arbitrary_prompts(model: LanguageModel) -> tuple[TokenBatch, TokenBatch]:
    """Two pairs of arbitrary prompts of `N_TOKENS` that share their first three tokens."""
    vocabulary = model.model.get_input_embeddings().num_embeddings
    ids_BT = torch.arange(4 * N_TOKENS, device=model.device).mul(7).remainder(vocabulary).view(4, N_TOKENS)
    ids_BT[:, :3] = ids_BT[0, :3]
    return TokenBatch.of_ids(ids_BT[:2]), TokenBatch.of_ids(ids_BT[2:])


@torch.no_grad()
def check_meaning(model: LanguageModel, places: Sequence[Place]) -> None:
    """Try one place of each site. Raises: SiteError for a place that the model does not have, or that holds something
    else than its site's name says."""
    for place in places:
        tap_of(model, place)
        check_no_gate(model, place)
    for place in {place.site: place for place in places}.values():
        if not _CHECKS.get(place.site, _is_taken_as_it_is)(model, replace(place, position=N_TOKENS - 4)):
            kind = type(model.model).__name__
            raise SiteError(f"{name_of(place)}: what was found in {kind} is something else; leave the site away")


def _is_taken_as_it_is(_model: LanguageModel, _place: Place) -> bool:
    return True


def _returns_its_projection(model: LanguageModel, place: Place) -> bool:
    """The attention or the MLP returns what its last projection does: no residual stream is added inside."""
    is_attention = place.site == "attention_output"
    if not is_attention and has_experts(model, place):
        return True
    outer = place if is_attention else replace(place, site="mlp_output", unit=None)
    inner = tap_of(model, replace(place, site="head_output" if is_attention else "mlp_neurons", unit=None))
    returned: list[Tensor] = []
    handle = replace(inner, is_input=False).hook(lambda values: returned.append(values.clone()))
    try:
        _, found_BTW = _run(model, arbitrary_prompts(model)[0], {}, [outer])
    finally:
        handle.remove()
    return _is_close(model, returned[0].view(found_BTW.shape).to(found_BTW.device), found_BTW)


def _decides_what_follows(model: LanguageModel, place: Place) -> bool:
    """The MLP and the block return what they return for the prompt whose stream is put between attention and MLP."""
    base, source = arbitrary_prompts(model)
    behind = [replace(place, site=site) for site in ("mlp_output", "block_output")]
    _, source_BTW, *wanted = _run(model, source, {}, [place, *behind])
    _, *found = _run(model, base, {place: source_BTW[:, place.position]}, behind)
    at = place.position
    return all(_is_close(model, one[:, at], other[:, at]) for one, other in zip(found, wanted, strict=True))


def _is_the_token(model: LanguageModel, place: Place) -> bool:
    """The model says what it says of a prompt with the other token."""
    base, source = arbitrary_prompts(model)
    ids_BT = base.ids_BT.clone()
    ids_BT[:, place.position] = source.ids_BT[:, place.position]
    _, source_BTW = _run(model, source, {}, [place])
    (found_BTV,) = _run(model, base, {place: source_BTW[:, place.position]}, [])
    (wanted_BTV,) = _run(model, TokenBatch.of_ids(ids_BT), {}, [])
    return _is_close(model, found_BTV, wanted_BTV)


def _is_a_heads_query(model: LanguageModel, place: Place) -> bool:
    """Its head's output changes, at its token only; and no other head's."""
    if place.unit is None:
        return True
    place = replace(place, site="query")
    _, change_TH = _changes(model, place)
    is_changed_TH = change_TH > _UNTOUCHED * change_TH.max()
    is_own_TH = torch.zeros_like(is_changed_TH)
    is_own_TH[place.position, place.unit] = True
    return bool(torch.equal(is_changed_TH, is_own_TH))


def _is_a_heads_key_or_value(model: LanguageModel, place: Place) -> bool:
    """The outputs of the heads that share it change, of no other head and no earlier token; and it is the value only if
    the first token's change is handed on as it is."""
    assert place.unit is not None
    n_heads, n_key_heads = (n_units(model, place.layer, site) for site in ("query", place.site))
    assert n_heads is not None
    assert n_key_heads is not None
    group = n_heads // n_key_heads
    shares_H = torch.arange(n_heads, device=model.device) // group == place.unit
    _, change_TH = _changes(model, place)
    is_changed_TH = change_TH > _UNTOUCHED * change_TH.max()
    if is_changed_TH[:, ~shares_H].any() or is_changed_TH[: place.position].any():
        return False
    if not is_changed_TH[place.position + 1 :].any():
        return False
    given_BW, found_BTHE = _changed(model, replace(place, position=0))
    found_BGE = found_BTHE[:, 0, shares_H]
    if found_BGE.shape[-1] != given_BW.shape[-1]:
        return place.site == "key"
    cosine_BG = torch.cosine_similarity(found_BGE, given_BW[:, None].expand_as(found_BGE), dim=-1)
    is_handed_on = bool((cosine_BG > 1 - 10 * TOLERANCES[model.dtype]).all())
    return is_handed_on == (place.site == "value")


def _changes(model: LanguageModel, place: Place) -> tuple[Tensor, Tensor]:
    """given_BW, and how much each head's output changes at each token, change_TH."""
    given_BW, found_BTHE = _changed(model, place)
    return given_BW, found_BTHE.square().sum(dim=(0, 3)).sqrt()


def _changed(model: LanguageModel, place: Place) -> tuple[Tensor, Tensor]:
    """How `place` is changed, given_BW, and how all heads' outputs change by it, found_BTHE."""
    base, _ = arbitrary_prompts(model)
    heads = replace(place, site="head_output", unit=None)
    _, own_BTW, plain_BTX = _run(model, base, {}, [place, heads])
    own_BW = own_BTW[:, place.position]
    size = own_BTW.abs().max()
    pattern_W = torch.cos(torch.arange(own_BW.shape[1], device=model.device, dtype=torch.float32))
    given_BW = (pattern_W * torch.where(size > 0, size, 1.0)).expand_as(own_BW)
    _, found_BTX = _run(model, base, {place: own_BW + given_BW}, [heads])
    n_heads = n_units(model, place.layer, "query")
    assert n_heads is not None
    return given_BW, (found_BTX - plain_BTX).unflatten(-1, (n_heads, -1))


def _run(
    model: LanguageModel, prompts: TokenBatch, writes: Mapping[Place, Tensor], reads: Sequence[Place]
) -> list[Tensor]:
    """The logits_BTV, and all tokens' values_BTW at the places to read, when values_BW are put at those to write."""
    found: list[Tensor] = []
    kept: dict[Place, Tensor] = {}
    handles = []
    for place, values_BW in writes.items():
        tap = tap_of(model, place)

        def put(values: Tensor, place: Place = place, values_BW: Tensor = values_BW, start: int = tap.start) -> Tensor:
            edited_BTX = values.reshape(len(prompts), -1, values.shape[-1]).clone()
            edited_BTX[:, place.position, start : start + values_BW.shape[1]] = values_BW.to(values)
            return edited_BTX.view(values.shape)

        handles.append(tap.hook(put))
    for place in reads:
        tap = tap_of(model, place)

        def keep(values: Tensor, place: Place = place, start: int = tap.start, width: int = tap.width) -> None:
            values_BTX = values.reshape(len(prompts), -1, values.shape[-1])
            kept[place] = values_BTX[..., start : start + width].to(model.device, torch.float32, copy=True)

        handles.append(tap.hook(keep))
    try:
        found.append(model.model(input_ids=prompts.ids_BT, use_cache=False).logits.float())
    finally:
        for handle in handles:
            handle.remove()
    return found + [kept[place] for place in reads]


def _is_close(model: LanguageModel, found: Tensor, wanted: Tensor) -> bool:
    size = wanted.float().abs().max()
    return bool((found.float() - wanted.float()).abs().max() <= TOLERANCES[model.dtype] * size)


_CHECKS: Final = {
    "attention_output": _returns_its_projection,
    "mlp_output": _returns_its_projection,
    "mlp_neurons": _returns_its_projection,
    "block_mid": _decides_what_follows,
    "embeddings": _is_the_token,
    "head_output": _is_a_heads_query,
    "query": _is_a_heads_query,
    "key": _is_a_heads_key_or_value,
    "value": _is_a_heads_key_or_value,
}
