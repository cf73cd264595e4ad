"""A local Hugging Face causal language model, frozen, with its decoder blocks at hand."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from workers.data.model_info import ModelError
from workers.engine.loading import dealt_out, load_checkpoint, untrained_model

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


Token = int | NDArray[np.int64]  # a token's index, the same in all rows, or one for each


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModel:
    """A frozen causal decoder in evaluation mode. `blocks` are its decoder blocks in order.

    `device` takes token ids and gives logits, and is where cells learn; blocks may lie on others. `shares_keys`: its
    attention can be `workers.engine.attention`'s, in which cells share the earlier keys and values. `notes`: what had
    to differ from the checkpoint's configuration.
    """

    model: PreTrainedModel
    blocks: tuple[nn.Module, ...]
    hidden_size: int
    device: torch.device
    dtype: torch.dtype
    shares_keys: bool = True
    notes: tuple[str, ...] = ()

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)


def pick_device(wanted: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here: the CPU where there is no GPU."""
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def check_device(wanted: str, found: torch.device) -> None:
    """Raises: OSError when a GPU is wanted by name and this node shows none."""
    if wanted == "cuda" and found.type != "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise OSError(f"device `cuda` is asked for and torch finds no GPU here (CUDA_VISIBLE_DEVICES={visible})")


def load_model(
    path: Path, *, dtype: str, device: torch.device, n_gpus: int = 1, untrained_seed: int | None = None
) -> LanguageModel:
    """The checkpoint in the folder `path`, in `dtype`, on `device`, or its blocks dealt out to `n_gpus` GPUs. With
    `untrained_seed` a model of its configuration with the initial weights that this seed draws.

    Raises: ModelError when the folder holds no loadable causal decoder, its weights do not match its configuration, or
        it does not fit on the GPUs. OutOfMemoryError when somebody else fills them.
    """
    is_dealt_out = n_gpus > 1 and device.type == "cuda"
    if is_dealt_out and find_spec("accelerate") is None:
        raise ModelError(f"{path}: a model on {n_gpus} GPUs needs accelerate; pip install 'causalsweep[multigpu]'")
    if untrained_seed is None:
        model, notes = load_checkpoint(path, dtype=DTYPES[dtype], device_map="auto" if is_dealt_out else None)
    else:
        model, notes = untrained_model(path, dtype=DTYPES[dtype], seed=untrained_seed), ()
        if is_dealt_out:
            model = dealt_out(model)
    if not is_dealt_out:
        if device.type == "cuda":
            memory_bytes = torch.cuda.get_device_properties(device).total_memory
            check_fits(path, model.get_memory_footprint(), memory_bytes=memory_bytes)
        return replace(wrap_model(model.to(device)), notes=notes)
    if any(parameter.device.type != "cuda" for parameter in model.parameters()):
        raise ModelError(f"{path}: does not fit on {n_gpus} GPUs in {dtype}; give a job more of them (`jobs.gpus`)")
    return replace(wrap_model(model), notes=notes)


def check_fits(path: Path, n_bytes: int, *, memory_bytes: int) -> None:
    """Raises: ModelError when `n_bytes` of weights are more than the whole memory of a GPU."""
    if n_bytes > memory_bytes:
        size, memory = (f"{count / 2**30:.1f} GiB" for count in (n_bytes, memory_bytes))
        raise ModelError(f"{path}: {size} of weights do not fit on a GPU of {memory}; give a job several (`jobs.gpus`)")


def wrap_model(model: PreTrainedModel) -> LanguageModel:
    """`model` frozen, in evaluation mode, with its decoder blocks found. Raises: ModelError when there are none."""
    model.eval().requires_grad_(False)
    config = model.config.get_text_config()
    if getattr(config, "output_router_logits", False):
        config.output_router_logits = False  # only training needs them, and every block would compute them
    return language_model_of(model)


def language_model_of(model: PreTrainedModel) -> LanguageModel:
    """`model` as it is, with its decoder blocks found. Raises: ModelError when there are none."""
    config = model.config.get_text_config()
    lists = [
        module
        for module in model.base_model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == config.num_hidden_layers
    ]
    if not lists:
        raise ModelError(f"{type(model).__name__}: no list of {config.num_hidden_layers} decoder blocks found in it")
    return LanguageModel(
        model=model,
        blocks=tuple(lists[0]),
        hidden_size=config.hidden_size,
        device=model.get_input_embeddings().weight.device,
        dtype=next(model.parameters()).dtype,
    )


@contextmanager
def replaced_forwards(replacements: Mapping[nn.Module, Any]) -> Iterator[None]:
    """While open, each module's forward is the given function `(hidden, *args, **kwargs)`.

    The module itself stays in place, so whatever the model's own code reads off it (an attention type, say) is there.
    """
    own = {
        module: module.__dict__.get("forward") for module in replacements
    }  # set where a block has a device of its own
    for module, function in replacements.items():
        module.forward = function
    try:
        yield
    finally:
        for module, forward in own.items():
            del module.forward
            if forward is not None:
                module.forward = forward


def hidden_of(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The hidden states in a decoder block's output, which some families wrap in a tuple."""
    return output[0] if isinstance(output, tuple) else output


def with_hidden(output: Tensor | tuple[Tensor, ...], hidden: Tensor) -> Tensor | tuple[Tensor, ...]:
    """A decoder block's output with its hidden states replaced."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def at_token(values_RTX: Tensor, token: Token) -> Tensor:
    """values_RX at a token."""
    return values_RTX[token_index(token, values_RTX.device)]


def token_index(token: Token, device: torch.device) -> tuple[Any, Any]:
    """What picks a token of each row out of rows on `device`."""
    if isinstance(token, int):
        return slice(None), token
    return torch.arange(len(token), device=device), torch.from_numpy(token).to(device)


def first_of(token: Token) -> int:
    """The first of the rows' tokens."""
    return token if isinstance(token, int) else int(token.min())


def side_by_side(values: Tensor) -> Tensor:
    """`values`, rows next to each other in memory: so a linear layer is one product, and its weight is read once.

    Of rows that lie apart, or seem to, torch makes a batch of products, each with the whole weight, where the weight
    is frozen.
    """
    return values.flatten().view(values.shape)


def cache_argument(model: PreTrainedModel, cache: Cache) -> dict[str, Cache]:
    """`cache` under the name by which the model takes it: transformers called it `past_key_values` before `cache`."""
    is_renamed = "cache" in inspect.signature(model.forward).parameters
    return {"cache" if is_renamed else "past_key_values": cache}


@dataclass(frozen=True, slots=True)
class Reads:
    """The M tokens whose logits are read, row by row: `behind_M` tokens follow each of them in its row, whether they
    belong to the row or fill it up."""

    row_M: NDArray[np.int64]
    behind_M: NDArray[np.int64]

    @property
    def n_last(self) -> int:
        """How many last tokens hold all of them."""
        return int(self.behind_M.max()) + 1

    def of_cells(self, n_cells: int, n_rows: int) -> Reads:
        """The same tokens in the `n_rows` rows of each of several cells."""
        first_C1 = np.arange(n_cells)[:, None] * n_rows
        return Reads((first_C1 + self.row_M).ravel(), np.tile(self.behind_M, n_cells))

    def pick(self, values_RTX: Tensor) -> Tensor:
        """values_MX."""
        row_M, token_M = (torch.from_numpy(part).to(values_RTX.device) for part in (self.row_M, -1 - self.behind_M))
        return values_RTX[row_M, token_M]


def last_logits(model: PreTrainedModel, reads: Reads | None, **inputs: Any) -> Tensor:
    """logits_MV in float32 at the tokens that are read: without `reads`, at the last one of each row.

    The model's head is shown these tokens alone.
    """

    def pick(_head: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        read_MX = at_token(arguments[0], -1) if reads is None else reads.pick(arguments[0])
        return (side_by_side(read_MX[:, None]), *arguments[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits_M1V: Tensor = model(**inputs, logits_to_keep=1 if reads is None else reads.n_last).logits
    finally:
        handle.remove()
    return logits_M1V[:, 0].float()
