"""Small tokenizers of the kinds that checkpoints have, trained on a few lines when a test asks for one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LINES = [
    "When Mary and John went to the store, John gave a drink to Mary",
    "Paris is in France. Rome is in Italy. Buenos Aires is in Argentina.",
    "naïve café 你好 Ünïcode über 3.10 dollars Yes No",
    "system user assistant start end Please answer briefly. Is 7 odd?",
]
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]"]


def byte_level(*, bos: bool = True, trim: bool = False) -> Tokenizer:
    """As GPT-2's and Llama 3's: bytes, a blank belongs to the word behind it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    own = processors.ByteLevel(trim_offsets=trim)
    tokenizer.post_processor = processors.Sequence([own, _bos(tokenizer)]) if bos else own
    return tokenizer


def sentencepiece(*, bos: bool = True) -> Tokenizer:
    """As Llama 2's: one blank put before the text, blanks are ▁, what the vocabulary lacks falls back to bytes."""
    words = [piece for line in LINES[:2] for piece in line.replace(" ", " ▁").split(" ")]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[^▁]+"), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    tokenizer.train_from_iterator(words * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=model["vocab"], merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    if bos:
        tokenizer.post_processor = _bos(tokenizer)
    return tokenizer


def words(*, bos: bool = True) -> Tokenizer:
    """Plain BPE on words and blanks, as small models have it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", *SPECIAL], show_progress=False)
    tokenizer.train_from_iterator(LINES * 3, trainer)
    if bos:
        tokenizer.post_processor = _bos(tokenizer)
    return tokenizer


KINDS: dict[str, Callable[..., Tokenizer]] = {
    "byte_level": byte_level,
    "sentencepiece": sentencepiece,
    "words": words,
}


def save(tokenizer: Tokenizer, folder: Path, *, chat_template: str | None = None) -> Path:
    """The tokenizer in a checkpoint's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    config |= {"chat_template": chat_template} if chat_template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _bos(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
