"""What planning must know of a checkpoint folder, without torch: sizes, and a fingerprint of the weights."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

WEIGHTS: Final = "model.safetensors"  # the one file of a checkpoint that is not sharded
WEIGHTS_INDEX: Final = "model.safetensors.index.json"
_STRIDE_BYTES: Final = 1 << 20  # one block in each MiB is hashed: no tensor of that size changes unseen
_BLOCK_BYTES: Final = 1 << 12
_NOT_GATED: Final = frozenset(  # two matrices in the MLP, not three
    {"gpt2", "gpt_neo", "gpt_neox", "gptj", "codegen", "opt", "phi", "bloom", "falcon"}
)
_PARALLEL: Final = frozenset({"gptj", "codegen", "phi", "cohere", "cohere2"})  # attention and MLP side by side
_PARALLEL_BY_DEFAULT: Final = frozenset({"gpt_neox", "falcon"})


class ModelError(ValueError):
    """A checkpoint folder that is missing, broken or no plain causal decoder; the message says what is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Sizes of a causal decoder. `fingerprint` changes with the configuration, the tokenizer or the weights."""

    path: Path
    n_layers: int
    hidden_size: int
    intermediate_size: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    vocab_size: int
    gated_mlp: bool
    fingerprint: str
    n_experts: int = 1  # MLPs of this size in a block
    n_experts_a_token: int = 1
    shared_size: int = 0  # the MLP beside the experts, which every token passes
    query_head_size: int = 0  # where it is another than `head_size`
    value_head_size: int = 0  # likewise
    parallel_blocks: bool = False  # attention and MLP both read the block's input
    compressed_keys: bool = False  # all heads share a compressed form of keys and values

    @property
    def n_layer_parameters(self) -> int:
        """Parameters of the matrices in one decoder block that a token passes; twice that are its operations."""
        return self._block_parameters(self.n_experts_a_token)

    @property
    def n_parameters(self) -> int:
        """Parameters of all blocks and of the embedding and the head."""
        return self.n_layers * self._block_parameters(self.n_experts) + 2 * self.vocab_size * self.hidden_size

    def _block_parameters(self, n_experts: int) -> int:
        attention = self.hidden_size * self.head_size * 2 * (self.n_heads + self.n_kv_heads)
        inner = n_experts * self.intermediate_size + self.shared_size
        router = self.hidden_size * self.n_experts if self.n_experts > 1 else 0
        return attention + (3 if self.gated_mlp else 2) * self.hidden_size * inner + router


def read_model_info(path: Path) -> ModelInfo:
    """The sizes and the fingerprint of the checkpoint in the folder `path`; its weights may still be absent.

    Raises: ModelError naming the file, the key and what is expected.
    """
    if not path.is_dir():
        raise ModelError(f"{path}: no such folder; give the folder of a Hugging Face checkpoint (config.json in it)")
    if (path / "adapter_config.json").exists():
        raise ModelError(f"{path}: an adapter, not a whole model; merge it into its base model and save that")
    config = _read_config(path / "config.json")
    weights = weight_files(path)
    hidden = _size(config, path, "hidden_size", "n_embd", "d_model")
    heads = _size(config, path, "num_attention_heads", "n_head", "num_heads")
    n_experts = _size(config, path, "num_local_experts", "num_experts", "n_routed_experts", default=0)
    own = ("moe_intermediate_size",) if n_experts else ()
    inner = _size(config, path, *own, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", default=4 * hidden)
    n_shared = _size(config, path, "n_shared_experts", default=0)
    shared_size = _size(config, path, "shared_expert_intermediate_size", default=inner * n_shared)
    return ModelInfo(
        path=path,
        n_layers=_size(config, path, "num_hidden_layers", "n_layer", "num_layers"),
        hidden_size=hidden,
        intermediate_size=inner,
        n_heads=heads,
        n_kv_heads=_kv_heads(config, path, heads),
        head_size=_size(config, path, "head_dim", default=hidden // heads),
        vocab_size=_size(config, path, "vocab_size"),
        gated_mlp=config.get("model_type") not in _NOT_GATED,
        fingerprint=_fingerprint([path / "config.json", path / "tokenizer.json", *weights]),
        n_experts=max(1, n_experts),
        n_experts_a_token=_size(config, path, "num_experts_per_tok", default=1) if n_experts else 1,
        shared_size=shared_size if n_experts else 0,
        query_head_size=_size(config, path, "qk_nope_head_dim", default=0)
        + _size(config, path, "qk_rope_head_dim", default=0),
        value_head_size=_size(config, path, "v_head_dim", default=0),
        parallel_blocks=_has_parallel_blocks(config),
        compressed_keys=bool(config.get("kv_lora_rank")),
    )


def _kv_heads(config: Mapping[str, Any], path: Path, n_heads: int) -> int:
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        return 1
    return _size(config, path, "num_key_value_heads", "num_kv_heads", default=n_heads)


def _has_parallel_blocks(config: Mapping[str, Any]) -> bool:
    kind = config.get("model_type")
    if config.get("new_decoder_architecture") or kind in _PARALLEL:
        return True
    named = (config[key] for key in ("use_parallel_residual", "parallel_attn") if key in config)
    return bool(next(named, kind in _PARALLEL_BY_DEFAULT))


def weight_files(path: Path) -> list[Path]:
    """The weight files that are loaded from the folder, by name: `model.safetensors`, or those that its index names.

    Raises: ModelError when the index names one that is not there, or both could be meant.
    """
    single, index = path / WEIGHTS, path / WEIGHTS_INDEX
    if not index.exists():
        return [single] if single.exists() or single.is_symlink() else []
    try:
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of weight files ({error})") from error
    if single.exists() and named != [WEIGHTS]:
        raise ModelError(
            f"{path}: holds {WEIGHTS} and {WEIGHTS_INDEX}, which names {len(named)} other files; transformers would "
            "load the first and leave the others: keep the one that is the model, and move the other away"
        )
    present = [path / name for name in named if (path / name).is_file()]
    if present and len(present) < len(named):
        missing = [name for name in named if not (path / name).is_file()]
        raise ModelError(f"{index}: names {len(named)} files, {missing[0]} is missing; download the whole checkpoint")
    return present


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: missing; give the folder of a Hugging Face checkpoint") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: got {type(config).__name__}; expected a JSON object")
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else config


def _size(config: Mapping[str, Any], path: Path, *keys: str, default: int | None = None) -> int:
    """The first of these keys that is neither absent, null nor 0, else the default. Raises: ModelError for no size."""
    key = next((key for key in keys if config.get(key)), None)
    if key is None and default is not None:
        return default
    value = config.get(key or keys[0])
    if not isinstance(value, int) or value < 1:
        name = path / "config.json"
        raise ModelError(f"{name}: key `{key or keys[0]}`: got {value!r}; expected a whole number above 0")
    return value


def _fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            stat = file.stat()
            digest.update(f"{file.name}:{_file_digest(file, stat.st_size, stat.st_mtime_ns)};".encode())
    return digest.hexdigest()[:32]


@functools.lru_cache(maxsize=256)
def _file_digest(file: Path, size: int, _mtime_ns: int) -> str:
    """SHA-256 of a small file's bytes, or of a large one's size, first MiB and a 4 KiB block of each further MiB."""
    digest = hashlib.sha256(str(size).encode())
    with open(file, "rb") as stream:
        digest.update(stream.read(16 * _STRIDE_BYTES))
        for offset in range(16 * _STRIDE_BYTES, size, _STRIDE_BYTES):
            stream.seek(offset)
            digest.update(stream.read(_BLOCK_BYTES))
    return digest.hexdigest()
