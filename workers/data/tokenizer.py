"""A checkpoint's tokenizer, read from its tokenizer.json without torch or transformers: one for planning and jobs.

It is the one encoder of prompts, whoever makes them: text to token ids, a named character to the token that holds it,
an answer to the tokens that follow the prompt. In a chat (`in_chat`) each prompt is a user's message in the
checkpoint's chat template, and characters still count from the message's own start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as HFTokenizer

from workers.data.chat import ChatFrame, read_chat_frame
from workers.data.model_info import ModelError
from workers.data.token_ids import TokenRows

# A character, or a span of characters [start, end)
Character = int | tuple[int, int]


class NoTokenError(ValueError):
    """No token of text number `index` holds the place called `name`."""

    def __init__(self, index: int, name: str) -> None:
        super().__init__(index, name)
        self.index, self.name = index, name


class Tokenizer:
    """Text to token ids, special tokens added as the checkpoint's tokenizer.json says, or as its chat template does.

    `vocab_size`: how many tokens the model knows; an id at or above it is refused wherever a text is encoded.
    """

    def __init__(
        self, backend: HFTokenizer, path: Path, chat: ChatFrame | None = None, *, vocab_size: int | None = None
    ) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend, self._vocab_size = backend, vocab_size
        self.path, self.chat = path, chat

    @classmethod
    def load(cls, model_path: Path, *, vocab_size: int | None = None) -> Tokenizer:
        """The tokenizer of the checkpoint folder. Raises: ModelError when there is no readable tokenizer.json."""
        path = model_path / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                f"{path}: missing; write it once with transformers: "
                f"AutoTokenizer.from_pretrained({str(model_path)!r}).save_pretrained({str(model_path)!r})"
            )
        try:
            backend = HFTokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises plain Exception
            raise ModelError(f"{path}: not a tokenizer of the tokenizers library ({error})") from error
        return cls(backend, path, vocab_size=vocab_size)

    def in_chat(self, system: str) -> Tokenizer:
        """The tokenizer that reads each text as a user's message, behind the `system` message where that is not empty.

        Raises: ModelError when the checkpoint has no chat template, or one that says more than the message's frame.
        """
        frame = read_chat_frame(self.path.parent, system)
        return Tokenizer(self._backend, self.path, frame, vocab_size=self._vocab_size)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text. Raises: ModelError for one that the model does not know, as all of these do."""
        return [encoding.ids for encoding in self._encoded(texts, with_offsets=False)]

    def encode_placed(
        self, texts: Sequence[str], named: Sequence[Mapping[str, Character]]
    ) -> tuple[TokenRows, dict[str, NDArray[np.int64]]]:
        """The token ids of each text, and for each name the token of every text that holds the place of that name.

        A character that is several tokens lies at the first of them; a span ends at the last token of its last
        character. All texts have the same names. Raises: NoTokenError.
        """
        names = list(named[0]) if named else []
        encodings = self._encoded(texts, with_offsets=bool(names))
        places = {name: np.empty(len(texts), dtype=np.int64) for name in names}
        for index, (text, encoding, characters) in enumerate(zip(texts, encodings, named, strict=True)):
            for name, place in characters.items():
                token = self._token_at(text, encoding, place)
                if token is None:
                    raise NoTokenError(index, name)
                places[name][index] = token
        return TokenRows.of([encoding.ids for encoding in encodings]), places

    def encode_answered(self, texts: Sequence[str], answers: Sequence[str]) -> list[list[int]]:
        """The token ids of each text with its answer behind it."""
        if self.chat is None:
            return self.encode([text + answer for text, answer in zip(texts, answers, strict=True)])
        replies = [
            self.chat.framed(text) + self.chat.reply(answer) for text, answer in zip(texts, answers, strict=True)
        ]
        encodings = self._known(self._backend.encode_batch_fast(replies, add_special_tokens=False))
        return [encoding.ids for encoding in encodings]

    def text(self, ids: Sequence[int]) -> str:
        """The text that the tokens mean together; in a chat with the special tokens of its template."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=self.chat is None)
        return text

    def piece(self, token: int) -> str:
        """The vocabulary's text of one token, a leading blank shown as a blank."""
        return (self._backend.id_to_token(token) or "").replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n")

    def _encoded(self, texts: Sequence[str], *, with_offsets: bool) -> list[Any]:
        encode = self._backend.encode_batch if with_offsets else self._backend.encode_batch_fast
        if self.chat is None:
            return self._known(encode(list(texts)))
        return self._known(encode([self.chat.framed(text) for text in texts], add_special_tokens=False))

    def _known(self, encodings: list[Any]) -> list[Any]:
        """The encodings. Raises: ModelError for an id at or above the model's `vocab_size`."""
        highest = max((max(encoding.ids, default=0) for encoding in encodings), default=0)
        if self._vocab_size is not None and highest >= self._vocab_size:
            raise ModelError(
                f"{self.path}: gives a prompt's {self.piece(highest)!r} the id {highest}, and the model knows "
                f"{self._vocab_size} tokens (key `vocab_size` of config.json: ids 0 to {self._vocab_size - 1}); give "
                "the tokenizer that the model was trained with"
            )
        return encodings

    def _token_at(self, text: str, encoding: Any, place: Character) -> int | None:
        """The token that holds the character, or the last one of the span."""
        character = place if isinstance(place, int) else place[1] - 1
        first, shift = (0, 0) if self.chat is None else self.chat.move(text)
        if not first <= character < len(text):
            return None
        token: int | None = encoding.char_to_token(character + shift)
        if token is None:
            return None
        is_blank = (
            self.piece(encoding.ids[token]) == " " and text[character] != " "
        )  # which the tokenizer put before the text
        while (is_blank or not isinstance(place, int)) and self._holds(encoding, token + 1, character + shift):
            token, is_blank = token + 1, False
        return token

    @staticmethod
    def _holds(encoding: Any, token: int, character: int) -> bool:
        span = encoding.token_to_chars(token) if token < len(encoding) else None
        return span is not None and span[0] <= character < span[1]
