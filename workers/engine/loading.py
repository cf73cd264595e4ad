"""A checkpoint read into a model, or refused: transformers' own report says which weights fit the configuration.

`python -m workers.engine.loading FOLDER` tries it without reading any weight and prints the verdict as JSON: planning
asks so (`workers.data.checkpoint_check`), because it imports no torch itself.
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from workers.data.checkpoint_files import Shape, check_files, odd_names
from workers.data.model_info import ModelError, weight_files
from workers.data.tokenizer import Tokenizer

_MAX_NAMES: Final = 4  # a kind, in a message
_ROWS: Final = 8192  # an embedding's, compared at a time
_PLAIN_ATTENTION: Final = (None, "eager", "sdpa")
# What older checkpoints hold beside the weights: tables that are computed, and masks of shape (1, 1, T, T).
_TABLES: Final = frozenset({"inv_freq", "masked_bias", "causal_mask", "position_ids"})
_OTHER_SENSES: Final = ("vision", "visual", "image", "audio", "speech", "multi_modal", "mm_")
_SAMPLE: Final = "Is 1.30 more than two dollars?\nNo, it is not."
_NODE_ERRORS: Final = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE})


def load_checkpoint(path: Path, **options: Any) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The model in the folder `path`, every weight of it from there, and notes on what had to differ from its
    configuration. `options` are `from_pretrained`'s. Nothing is downloaded, and no code of the checkpoint is run.

    Raises: ModelError naming the weights that are missing, unexpected or of another shape, or why there is no model.
        OutOfMemoryError, MemoryError, OSError: not the checkpoint's fault.
    """
    transformers_logging.disable_progress_bar()  # a job's log is no terminal
    tensors = check_files(path)
    try:
        model, report, notes = _loaded(path, options)
    except Exception as error:  # whatever transformers, or a library that it calls, raises on a user's checkpoint
        if _is_machines_fault(error):
            raise
        odd = f"; by their siblings: {_listed(odd_names(tensors))}" if "conversion" in str(error) else ""
        what = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{path}: not loadable as a causal language model: {type(error).__name__}: {what}{odd}"
        ) from error
    problems = problems_of(report, tensors)
    if problems:
        raise ModelError(
            f"{path}: its weights do not match its config.json: {'; '.join(problems)}; give the configuration that "
            "the weights were saved with, or download the whole checkpoint again"
        )
    _check_tied(path, model)
    return model, notes


def _loaded(path: Path, options: Mapping[str, Any]) -> tuple[PreTrainedModel, Mapping[str, Any], tuple[str, ...]]:
    fixed = {
        "local_files_only": True,
        "trust_remote_code": False,
        "use_safetensors": True,
        "ignore_mismatched_sizes": True,  # so that the report names them
        "output_loading_info": True,
    }
    try:
        return (*AutoModelForCausalLM.from_pretrained(str(path), **fixed, **options), ())
    except (ImportError, ValueError):
        config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        wanted = getattr(config, "_attn_implementation", None)
        if wanted in _PLAIN_ATTENTION:
            raise
        config._attn_implementation = None  # transformers then takes the best that is there
        model, report = AutoModelForCausalLM.from_pretrained(str(path), config=config, **fixed, **options)
        taken = model.config._attn_implementation
        note = f"{path}: its configuration asks for the attention {wanted!r}, which cannot be used here; {taken!r}"
        return model, report, (f"{note} is taken, the same function but for rounding",)


def untrained_model(path: Path, *, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """A model of the configuration in `path` with initial weights: drawn on the CPU in float32 by `seed`, so that they
    are the same for every device and dtype, but for rounding. No weight file is read.

    Raises: ModelError where the configuration makes no causal language model.
    """
    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # whatever transformers, or a library that it calls, raises on a user's configuration
        if _is_machines_fault(error):
            raise
        what = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{path}: its config.json makes no causal language model: {type(error).__name__}: {what}"
        ) from error
    for parameter in model.parameters():  # not the tables of positions: they are float32 in a loaded model too
        parameter.data = parameter.data.to(dtype)
    return model


def dealt_out(model: PreTrainedModel) -> PreTrainedModel:
    """The model, its blocks on all GPUs of the job."""
    from accelerate import dispatch_model, infer_auto_device_map  # type: ignore[import-untyped]

    kept_whole = list(getattr(model, "_no_split_modules", None) or ())
    dealt: PreTrainedModel = dispatch_model(model, infer_auto_device_map(model, no_split_module_classes=kept_whole))
    return dealt


def _is_machines_fault(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return True
    return (isinstance(error, OSError) and error.errno in _NODE_ERRORS) or "CUDA error" in str(error)


def problems_of(report: Mapping[str, Any], tensors: Mapping[str, Shape]) -> list[str]:
    """What transformers' loading report says against the checkpoint; empty where each weight has its place.

    `tensors` are the shapes in the files: by them the tables and masks of older checkpoints are told from weights.
    """
    missing = sorted(report["missing_keys"])
    unexpected = sorted(name for name in report["unexpected_keys"] if not _is_no_weight(name, tensors.get(name, ())))
    mismatched = sorted(
        f"{name} is {tuple(found)} in the file and {tuple(wanted)} in the model"
        for name, found, wanted in report["mismatched_keys"]
    )
    problems = [f"missing {_listed(missing)}"] if missing else []
    problems += [f"unexpected {_listed(unexpected)}"] if unexpected else []
    problems += [_listed(mismatched)] if mismatched else []
    problems += [str(message) for message in report.get("error_msgs") or ()]
    return problems


def _is_no_weight(name: str, shape: Shape) -> bool:
    last = name.rpartition(".")[2]
    is_mask = last == "bias" and len(shape) == 4 and shape[:2] == (1, 1)
    return last in _TABLES or is_mask or any(word in name for word in _OTHER_SENSES)


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _MAX_NAMES} more" if len(every) > _MAX_NAMES else ""
    return ", ".join(every[:_MAX_NAMES]) + more


def _check_tied(path: Path, model: PreTrainedModel) -> None:
    """Raises: ModelError where the configuration ties the head to the embedding and the file has a head of its own."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or embedding is None or not model.config.get_text_config().tie_word_embeddings:
        return
    if head.weight is embedding.weight:
        return
    if head.weight.device.type == "meta":
        names = {id(weight): name for name, weight in model.named_parameters(remove_duplicate=False)}
        if _are_equal(path, names[id(head.weight)], names[id(embedding.weight)]):
            return
    elif torch.equal(head.weight.to(embedding.weight.device), embedding.weight):
        return
    raise ModelError(
        f"{path / 'config.json'}: key `tie_word_embeddings`: got true, and the weights hold a head that differs from "
        "the embedding; expected false where that head is the model's own; else remove it from the weights"
    )


def _are_equal(path: Path, *wanted: str) -> bool:
    """Whether the files hold the same values for two parameters of the model."""
    slices = []
    for name in wanted:
        for file in weight_files(path):
            opened = safe_open(str(file), framework="pt")
            keys = [
                key
                for key in opened.keys()  # noqa: SIM118 (it is no mapping)
                if key == name or key.endswith(f".{name}") or name.endswith(f".{key}")
            ]
            slices += [opened.get_slice(key) for key in keys]
    if len(slices) != len(wanted):
        return True  # one of them is not stored: it is the other
    first, second = slices
    n_rows = first.get_shape()[0]
    if first.get_shape() != second.get_shape():
        return False
    spans = [slice(start, start + _ROWS) for start in range(0, n_rows, _ROWS)]
    return all(torch.equal(first[span], second[span]) for span in spans)


def main(path: Path) -> None:
    """Print what is to be said of the checkpoint: `problem`, empty where it can be loaded, and `notes`."""
    transformers_logging.set_verbosity_error()
    if find_spec("accelerate") is None:
        sys.exit("accelerate is not installed")  # it makes the model without memory for its weights
    try:
        _, notes = load_checkpoint(path, device_map="meta")
    except ModelError as error:
        print(json.dumps({"problem": str(error), "notes": []}))
        return
    print(json.dumps({"problem": "", "notes": [*notes, *_tokenizer_notes(path)]}))


def _tokenizer_notes(path: Path) -> list[str]:
    """What to say where transformers' own tokenizer of the checkpoint cuts a text otherwise than its tokenizer.json."""
    if not (path / "tokenizer.json").is_file():
        return []
    try:
        usual = AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        ids = usual(_SAMPLE)["input_ids"]
    except Exception:  # a tokenizer that transformers cannot make is none to compare with
        return []
    (found,) = Tokenizer.load(path).encode([_SAMPLE])
    if found == ids:
        return []
    note = (
        f"{path}: transformers' {type(usual).__name__} reads {_SAMPLE!r} as {ids[:4]}.., tokenizer.json alone as "
        f"{found[:4]}..; cells are run with the latter (write it anew with AutoTokenizer's save_pretrained, if the "
        "former is what the model was trained with)"
    )
    return [note]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
