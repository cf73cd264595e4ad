"""Where each site of a model lies: which module's input or output it is, and which of its columns belong to a unit.

| site | what it is | unit |
|---|---|---|
| `block_output` | the residual stream after block l | |
| `block_input` | the residual stream before block l | |
| `block_mid` | the residual stream between the attention and the MLP of block l | |
| `attention_output` | what the attention returns, before any norm that a family has behind it | |
| `mlp_output` | what the MLP (or the mixture of experts) returns, before any norm behind it | |
| `head_output` | the input of the attention's output projection | a head's slice; none: all heads |
| `mlp_neurons` | the input of the MLP's down projection | one neuron; none: all of them |
| `query`, `key`, `value` | what the projection gives for one head, before the rotary embedding | a head |
| `embeddings` | the token's embedding, before positions are added; its layer is 0 | |

Keys and values are counted by key-value head: grouped queries share one. A norm of each head comes behind the site; a
norm over all heads together (OLMo 2) comes before it, or one head's change would be every head's. Queries and keys are
taken before the rotary embedding because a rotated vector also says where its token lies: an interchange between
prompts whose tokens lie elsewhere would move the token. Source: TransformerLens' `hook_q`, `hook_k`, `hook_v` and
pyvene's `query_output`, `key_output`, `value_output` are the same points.

Families differ in what they call a submodule and in how a fused projection is laid out. The tables below are all that
is known here of a family. `workers.engine.meaning` tries on the model itself that what was found is what the site's
name says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from workers.data.model_info import ModelError
from workers.engine.model import LanguageModel, hidden_of, with_hidden
from workers.files.place import BLOCK_OUTPUT, AnyPlace, Place

RESIDUAL_SITES: Final = (BLOCK_OUTPUT, "block_input")  # a tail begins here: no part of a block is run for them
REACHES_LATER_TOKENS: Final = frozenset({"key", "value"})  # inside their own block

_ATTENTION: Final = ("self_attn", "attn", "attention", "self_attention")
_OUTPUT_PROJECTION: Final = ("o_proj", "out_proj", "c_proj", "dense")
_SEPARATE: Final = {"query": ("q_proj", "q_b_proj"), "key": ("k_proj",), "value": ("v_proj",)}
_FUSED: Final = ("query_key_value", "qkv_proj", "c_attn")
_MLP: Final = ("mlp", "block_sparse_moe", "feed_forward", "fc2")  # OPT's block holds the MLP's two matrices itself
_DOWN_PROJECTION: Final = ("down_proj", "c_proj", "fc_out", "dense_4h_to_h", "fc2", "w2")
_EXPERTS: Final = ("experts",)
_NORM_BEFORE_MLP: Final = (
    *("pre_feedforward_layernorm", "post_attention_layernorm", "ln_2", "final_layer_norm"),
    *("ffn_norm", "pre_ff_layernorm"),  # LFM2, Falcon-H1
)
_CODEGEN_PARTS: Final = 4  # its fused projection is cut into this number of parts, each with queries, values and keys


class SiteError(ModelError):
    """A place that this model does not have; the message says which and what is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """A module's input or output, and the columns `start` to before `start + width` of it.

    With `in_place`, the tensor itself is overwritten: the module's input is also what the block adds its output to.
    """

    module: nn.Module
    is_input: bool
    start: int
    width: int
    in_place: bool = False

    def hook(self, edit: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Show `edit` all columns, rows x tokens x columns or (rows tokens) x columns, at each call of the module; what
        it returns takes their place, unless that is None."""

        def before(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            edited = edit(inputs[0])
            if edited is None:
                return None
            if self.in_place:
                inputs[0].copy_(edited)
                return None
            return (edited, *inputs[1:])

        def after(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            edited = edit(hidden_of(output))
            return None if edited is None else with_hidden(output, edited)

        if self.is_input:
            return self.module.register_forward_pre_hook(before)
        return self.module.register_forward_hook(after)


def tap_of(model: LanguageModel, place: Place) -> Tap:
    """Where `place` is read and written. Raises: SiteError where the model has no such place."""
    if not 0 <= place.layer < model.n_layers:
        raise SiteError(f"layer {place.layer}: the model has the layers 0..{model.n_layers - 1}")
    if place.site not in SITES:
        raise SiteError(f"site {place.site!r} is unknown; the sites are {', '.join(SITES)}")
    block = model.blocks[place.layer]
    found = SITES[place.site](model, block, place)
    if place.unit is None or place.site in _WITH_UNITS:
        return found
    raise SiteError(f"{name_of(place)}: the site has no units, and unit {place.unit} is asked for; leave `unit` away")


def width_of(model: LanguageModel, place: AnyPlace) -> int:
    """How many numbers a token has at `place`, of a set of places all together. Raises: as `tap_of`."""
    return sum(tap_of(model, point).width for point in place.points)


def n_units(model: LanguageModel, layer: int, site: str) -> int | None:
    """How many units the site has at `layer`; None where it has none. Raises: as `tap_of`."""
    block, place = model.blocks[layer], Place(layer=layer, position=0, site=site)
    if site == "mlp_neurons":
        return _sizes(_down_projection(block, place))[0]
    if site in ("head_output", "query"):
        return _n_heads(model)
    return _heads(model, block, place)[1] if site in ("key", "value") else None


def name_of(place: Place) -> str:
    """The place for people: site and layer."""
    return f"site `{place.site}` at layer {place.layer}"


def check_no_gate(model: LanguageModel, place: Place) -> None:
    """Raises: SiteError for a query, key or value where queries are projected with a gate, as in Qwen3-Next."""
    if place.site not in _SEPARATE:
        return
    attention = _inner_attention(model.blocks[place.layer], place)
    query, head_size = _child(attention, _SEPARATE["query"]), getattr(attention, "head_dim", None)
    if query is not None and isinstance(head_size, int) and _sizes(query)[1] == 2 * head_size * _n_heads(model):
        raise SiteError(
            f"{name_of(place)}: {type(attention).__name__} projects each head's query and a gate in one; expected "
            "`head_output` or `attention_output`"
        )


def has_experts(model: LanguageModel, place: Place) -> bool:
    """Whether the MLP of the place's layer is a mixture of experts."""
    return _child(_mlp(model.blocks[place.layer], place), _EXPERTS) is not None


def _block_output(model: LanguageModel, block: nn.Module, _place: Place) -> Tap:
    return Tap(module=block, is_input=False, start=0, width=model.hidden_size)


def _block_input(model: LanguageModel, block: nn.Module, _place: Place) -> Tap:
    return Tap(module=block, is_input=True, start=0, width=model.hidden_size)


def _embeddings(model: LanguageModel, _block: nn.Module, place: Place) -> Tap:
    if place.layer != 0:
        raise SiteError(f"{name_of(place)}: the embeddings come before all layers; expected layer 0")
    module = model.model.get_input_embeddings()
    return Tap(module=module, is_input=False, start=0, width=int(module.weight.shape[1]))


def _block_mid(model: LanguageModel, block: nn.Module, place: Place) -> Tap:
    config = model.model.config.get_text_config()
    is_parallel = getattr(config, "use_parallel_residual", False) or getattr(config, "parallel_attn", False)
    norm_is_behind = hasattr(block, "post_feedforward_layernorm") and not hasattr(block, "pre_feedforward_layernorm")
    module = _child(block, _MLP if norm_is_behind else _NORM_BEFORE_MLP)
    if is_parallel or module is None:
        kind = type(model.model).__name__
        raise SiteError(
            f"{name_of(place)}: attention and MLP of {kind} both read the block's input, there is no residual stream "
            "between them; expected `block_input`, `attention_output` or `mlp_output`"
        )
    return Tap(module=module, is_input=True, start=0, width=model.hidden_size, in_place=True)


def _attention_output(model: LanguageModel, block: nn.Module, place: Place) -> Tap:
    return Tap(module=_attention(block, place), is_input=False, start=0, width=model.hidden_size)


def _mlp_output(model: LanguageModel, block: nn.Module, place: Place) -> Tap:
    return Tap(module=_mlp(block, place), is_input=False, start=0, width=model.hidden_size)


def _head_output(model: LanguageModel, block: nn.Module, place: Place) -> Tap:
    module = _output_projection(block, place)
    size = _sizes(module)[0]
    if place.unit is None:
        return Tap(module=module, is_input=True, start=0, width=size)
    width = size // _n_heads(model)
    return Tap(module=module, is_input=True, start=_unit(place, _n_heads(model), "heads") * width, width=width)


def _mlp_neurons(_model: LanguageModel, block: nn.Module, place: Place) -> Tap:
    module = _down_projection(block, place)
    size = _sizes(module)[0]
    if place.unit is None:
        return Tap(module=module, is_input=True, start=0, width=size)
    return Tap(module=module, is_input=True, start=_unit(place, size, "neurons"), width=1)


def _projected(model: LanguageModel, block: nn.Module, place: Place) -> Tap:
    """A head's query, key or value: the columns of a projection of its own or of a fused one."""
    module, n_key_heads, size = _heads(model, block, place)
    n_heads = _n_heads(model)
    is_query = place.site == "query"
    unit = _unit(place, n_heads if is_query else n_key_heads, "heads" if is_query else "key-value heads")
    start = unit * size
    if _child(_inner_attention(block, place), _SEPARATE[place.site]) is None:
        start = size * _FUSED_SLOTS[_fused_layout(module, block)](place.site, unit, n_heads, n_key_heads)
    return Tap(module=module, is_input=False, start=start, width=size)


def _heads(model: LanguageModel, block: nn.Module, place: Place) -> tuple[nn.Module, int, int]:
    """The projection of a query, key or value; the number of key-value heads; the size of a head in this projection."""
    attention, n_heads = _inner_attention(block, place), _n_heads(model)
    query = _child(attention, _SEPARATE["query"])
    module = _child(attention, _SEPARATE[place.site])
    if query is not None and module is not None:
        size, n_columns = _sizes(query)[1] // n_heads, _sizes(module)[1]
        norm = _child(attention, (f"{place.site[0]}_norm",))
        is_joint = norm is not None and norm.weight.numel() == n_columns > size  # type: ignore[operator]
        key = _child(attention, _SEPARATE["key"])
        return norm if norm and is_joint else module, n_heads if key is None else _sizes(key)[1] // size, size
    fused = _child(attention, _FUSED)
    if fused is None or query is not None:
        raise SiteError(
            f"{name_of(place)}: {type(attention).__name__} has no projection of its own for it "
            "(compressed keys and values are shared by all heads); `query` or `head_output` may be right"
        )
    size = _sizes(_output_projection(block, place))[0] // n_heads
    return fused, (_sizes(fused)[1] // size - n_heads) // 2, size


def _side_by_side(site: str, unit: int, n_heads: int, n_key_heads: int) -> int:
    """All queries, then all keys, then all values."""
    return {"query": 0, "key": n_heads, "value": n_heads + n_key_heads}[site] + unit


def _by_group(site: str, unit: int, n_heads: int, n_key_heads: int) -> int:
    """For each key-value head its queries, its key and its value."""
    n_queries = n_heads // n_key_heads
    if site == "query":
        return unit // n_queries * (n_queries + 2) + unit % n_queries
    return unit * (n_queries + 2) + n_queries + (site == "value")


def _in_parts(site: str, unit: int, n_heads: int, _n_key_heads: int) -> int:
    """CodeGen: four parts, each with the queries, values and keys of a quarter of the heads."""
    n_here = n_heads // _CODEGEN_PARTS
    return (unit // n_here * 3 + {"query": 0, "value": 1, "key": 2}[site]) * n_here + unit % n_here


_FUSED_SLOTS: Final[dict[str, Callable[[str, int, int, int], int]]] = {
    "side by side": _side_by_side,
    "by group": _by_group,
    "in parts": _in_parts,
}


def _fused_layout(module: nn.Module, block: nn.Module) -> str:
    if "CodeGen" in type(block).__name__:
        return "in parts"
    names = {name.rpartition(".")[2] for name, part in block.named_modules() if part is module}
    return "by group" if "query_key_value" in names else "side by side"


SITES: Final[dict[str, Callable[[LanguageModel, nn.Module, Place], Tap]]] = {
    BLOCK_OUTPUT: _block_output,
    "block_input": _block_input,
    "block_mid": _block_mid,
    "attention_output": _attention_output,
    "mlp_output": _mlp_output,
    "head_output": _head_output,
    "mlp_neurons": _mlp_neurons,
    "query": _projected,
    "key": _projected,
    "value": _projected,
    "embeddings": _embeddings,
}
_WITH_UNITS: Final = frozenset({"head_output", "mlp_neurons", "query", "key", "value"})


def attention_module(model: LanguageModel, layer: int) -> nn.Module:
    """The attention of a block that computes the weights. Raises: SiteError where there is none that is known here."""
    return _inner_attention(model.blocks[layer], Place(layer=layer, position=0, site="attention_output"))


def _attention(block: nn.Module, place: Place) -> nn.Module:
    module = _child(block, _ATTENTION)
    if module is None:
        raise SiteError(f"{name_of(place)}: {type(block).__name__} has no attention that is known here")
    return module


def _inner_attention(block: nn.Module, place: Place) -> nn.Module:
    """The module that holds the projections: GPT-Neo's attention wraps it once more."""
    outer = _attention(block, place)
    return _child(outer, ("attention",)) or outer


def _output_projection(block: nn.Module, place: Place) -> nn.Module:
    attention = _inner_attention(block, place)
    module = _child(attention, _OUTPUT_PROJECTION)
    if module is None:
        raise SiteError(f"{name_of(place)}: {type(attention).__name__} has no output projection that is known here")
    return module


def _mlp(block: nn.Module, place: Place) -> nn.Module:
    module = _child(block, _MLP)
    if module is None:
        raise SiteError(f"{name_of(place)}: {type(block).__name__} has no MLP that is known here")
    return module


def _down_projection(block: nn.Module, place: Place) -> nn.Module:
    mlp = _mlp(block, place)
    module = mlp if mlp is getattr(block, "fc2", None) else _child(mlp, _DOWN_PROJECTION)
    if module is not None:
        return module
    if _child(mlp, _EXPERTS) is not None:
        raise SiteError(
            f"{name_of(place)}: {type(mlp).__name__} is a mixture of experts, whose tokens do not share one down "
            "projection; expected `mlp_output`"
        )
    raise SiteError(f"{name_of(place)}: {type(mlp).__name__} has no down projection that is known here")


def _child(module: nn.Module, names: Sequence[str]) -> nn.Module | None:
    """The first submodule that has one of these names."""
    found = (getattr(module, name, None) for name in names)
    return next((child for child in found if isinstance(child, nn.Module)), None)


def _n_heads(model: LanguageModel) -> int:
    config = model.model.config.get_text_config()
    if not hasattr(config, "num_attention_heads"):
        raise SiteError(f"{type(model.model).__name__} has no attention that is known here, and so no heads")
    return int(config.num_attention_heads)


def _sizes(module: nn.Module) -> tuple[int, int]:
    """The sizes of a linear layer's input and output; GPT-2 holds its weights the other way round."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    n_in, n_out = module.weight.shape  # type: ignore[misc]
    return int(n_in), int(n_out)


def _unit(place: Place, count: int, what: str) -> int:
    if place.unit is None:
        raise SiteError(f"{name_of(place)}: one of {count} {what} is meant; expected `unit` 0..{count - 1}")
    if not 0 <= place.unit < count:
        raise SiteError(f"{name_of(place)}: unit {place.unit} of {count} {what}; expected 0..{count - 1}")
    return place.unit
