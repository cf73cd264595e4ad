"""A checkpoint's tokenizer, read from its tokenizer.json without torch or transformers: one for planning and jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer as HFTokenizer

from workers.data.model_info import ModelError


class Tokenizer:
    """Text to token ids, special tokens added as the checkpoint's tokenizer.json says."""

    def __init__(self, backend: HFTokenizer, path: Path) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self.path = path

    @classmethod
    def load(cls, model_path: Path) -> Tokenizer:
        """The tokenizer of the checkpoint folder. Raises: ModelError when there is no readable tokenizer.json."""
        path = model_path / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{path}: missing; write it once with transformers: "
                f"AutoTokenizer.from_pretrained({str(model_path)!r}).save_pretrained({str(model_path)!r})"
            )
        try:
            return cls(HFTokenizer.from_file(str(path)), path)
        except Exception as error:  # the tokenizers library raises plain Exception
            raise ModelError(f"{path}: not a tokenizer of the tokenizers library ({error})") from error

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text."""
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts))]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """The token ids of each text, and each token's first and one-past-last character; (0, 0) for special tokens."""
        return [(encoding.ids, list(encoding.offsets)) for encoding in self._backend.encode_batch(list(texts))]

    def piece(self, token: int) -> str:
        """The vocabulary's text of one token, a leading blank shown as a blank."""
        return (self._backend.id_to_token(token) or "").replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")
