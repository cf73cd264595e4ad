"""Whether the suffix engine is exact on a model: tried, not guessed from the architecture's name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from workers.engine.meaning import N_TOKENS, TOLERANCES, arbitrary_prompts
from workers.engine.model import LanguageModel
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.files.place import Place


def exact_form(language_model: LanguageModel) -> tuple[LanguageModel | None, str]:
    """The model as the suffix engine gives its logits: with shared keys where it can be, else with its own attention.
    None where neither does, and why."""
    why = why_not_exact(language_model)
    if not why:
        return language_model, ""
    alone = replace(language_model, shares_keys=False)
    return (None, why) if why_not_exact(alone) else (alone, "")


def inexact_sites(language_model: LanguageModel, places: Sequence[Place]) -> dict[str, str]:
    """The sites among those of `places` at which the suffix engine must not be used, and why: one place of each, the
    middle one, is tried on the model in its exact form."""
    by_site: dict[str, list[Place]] = {}
    for place in sorted(places, key=lambda place: (place.layer, place.unit or 0)):
        by_site.setdefault(place.site, []).append(place)
    whys = {site: why_not_exact(language_model, some[len(some) // 2]) for site, some in by_site.items()}
    return {site: why for site, why in whys.items() if why}


def why_not_exact(language_model: LanguageModel, place: Place | None = None) -> str:
    """Why the suffix engine must not be used on this model, at this place's layer and site; empty where it gives the
    whole model's logits. Without a place, the output of the block in the middle is tried.

    Two pairs of arbitrary prompts are intervened on, with a prefix that is computed once.
    """
    place = place or Place(layer=(language_model.n_layers - 1) // 2, position=0)
    place = replace(place, position=N_TOKENS - 4)
    base, source = arbitrary_prompts(language_model)
    plain = ReferenceEngine(language_model).forward(base, source)
    try:
        engine = SuffixEngine(language_model, places=[place], prefix_P=base.ids_BT[0, :3])
        fast = engine.forward(base, source)
        with torch.no_grad():
            wanted = plain.intervene([place], lambda base, source: (base + source) / 2)
            found = fast.intervene([place], lambda base, source: (base + source) / 2)
    except Exception as error:  # whatever a model that is no plain causal decoder runs into
        return f"{type(error).__name__}: {error}"
    error_size = float((found - wanted).abs().max() / wanted.abs().max())
    if not error_size <= TOLERANCES[language_model.dtype]:
        return f"its logits differ by {error_size:.1e} of their size"
    return ""
