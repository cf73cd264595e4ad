"""The sites: the activations inside a decoder block that a cell can intervene on. No torch here: planning asks too.

| site | what it is | TransformerLens | pyvene |
|---|---|---|---|
| `block_output` | the residual stream after block l | `hook_resid_post` | `block_output` |
| `block_input` | the residual stream before block l | `hook_resid_pre` | `block_input` |
| `block_mid` | the residual stream between attention and MLP | `hook_resid_mid` | |
| `attention_output` | what the attention returns | `hook_attn_out` | `attention_output` |
| `mlp_output` | what the MLP, or the mixture of experts, returns | `hook_mlp_out` | `mlp_output` |
| `head_output` | a head's slice of the output projection's input | `attn.hook_z` | `head_attention_value_output` |
| `mlp_neurons` | the input of the MLP's down projection | `mlp.hook_post` | |
| `query`, `key`, `value` | a head's projection, before the rotary embedding | `attn.hook_q` | `head_query_output` |
| `embeddings` | the token embedding, which comes before all layers | `hook_embed` | |

A **unit** is a part of a site: a head, a key-value head (grouped queries share one), a neuron. To add a site: a line of
`SITES`, its name above, and where the engine finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from workers.data.model_info import ModelInfo
from workers.files.place import BLOCK_OUTPUT, AnyPlace, PlaceSet


class OwnBlock(StrEnum):
    """How much of its own block runs again after a change at a site: a cell's cost beside that of the later blocks."""

    NOTHING = "nothing"  # the site is the block's output
    TOKEN = "token"  # that token's way through the block
    TOKENS = "tokens"  # the block for that token and all later ones, which attend to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One line of the table. `width` is the size of one unit, of the whole site where it has none.

    `all_is_one`: `all` means one cell over all units, and not a cell for each. `has_layers`: false where the site comes
    before all layers; its layer is 0. `lacking` says why a model does not have the site; empty where it does.
    """

    own_block: OwnBlock
    width: Callable[[ModelInfo], int]
    n_units: Callable[[ModelInfo], int] | None = None
    unit_name: str = ""
    all_is_one: bool = False
    has_layers: bool = True
    lacking: Callable[[ModelInfo], str] = lambda _model: ""


def _no_block_mid(model: ModelInfo) -> str:
    if not model.parallel_blocks:
        return ""
    return (
        "attention and MLP of this model both read the block's input, so there is no residual stream between them; "
        "expected `block_input`, `attention_output` or `mlp_output`"
    )


def _no_neurons(model: ModelInfo) -> str:
    if model.n_experts == 1:
        return ""
    return "the MLP of this model is a mixture of experts, whose tokens share no neurons; expected `mlp_output`"


def _no_keys(model: ModelInfo) -> str:
    if not model.compressed_keys:
        return ""
    return "all heads of this model share compressed keys and values; expected `query` or `head_output`"


SITES: Final[dict[str, Site]] = {
    BLOCK_OUTPUT: Site(own_block=OwnBlock.NOTHING, width=lambda model: model.hidden_size),
    "block_input": Site(own_block=OwnBlock.TOKENS, width=lambda model: model.hidden_size),
    "block_mid": Site(own_block=OwnBlock.TOKEN, width=lambda model: model.hidden_size, lacking=_no_block_mid),
    "attention_output": Site(own_block=OwnBlock.TOKEN, width=lambda model: model.hidden_size),
    "mlp_output": Site(own_block=OwnBlock.TOKEN, width=lambda model: model.hidden_size),
    "head_output": Site(
        own_block=OwnBlock.TOKEN,
        width=lambda model: model.value_head_size or model.head_size,
        n_units=lambda model: model.n_heads,
        unit_name="head",
    ),
    "mlp_neurons": Site(
        own_block=OwnBlock.TOKEN,
        width=lambda _model: 1,
        n_units=lambda model: model.intermediate_size,
        unit_name="neuron",
        all_is_one=True,
        lacking=_no_neurons,
    ),
    "query": Site(
        own_block=OwnBlock.TOKEN,
        width=lambda model: model.query_head_size or model.head_size,
        n_units=lambda model: model.n_heads,
        unit_name="head",
    ),
    "key": Site(
        own_block=OwnBlock.TOKENS,
        width=lambda model: model.head_size,
        n_units=lambda model: model.n_kv_heads,
        unit_name="key-value head",
        lacking=_no_keys,
    ),
    "value": Site(
        own_block=OwnBlock.TOKENS,
        width=lambda model: model.head_size,
        n_units=lambda model: model.n_kv_heads,
        unit_name="key-value head",
        lacking=_no_keys,
    ),
    "embeddings": Site(own_block=OwnBlock.TOKENS, width=lambda model: model.hidden_size, has_layers=False),
}


def width_of(model: ModelInfo, place: AnyPlace) -> int:
    """How many numbers a token has at `place`, of a set of places all together: the size of the rotation there."""
    if isinstance(place, PlaceSet):
        return sum(width_of(model, point) for point in place.points)
    site = SITES[place.site]
    n_units = site.n_units(model) if site.n_units and place.unit is None else 1
    return n_units * site.width(model)
