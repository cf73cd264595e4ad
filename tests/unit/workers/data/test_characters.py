"""A place named in characters lies at the token that holds it, whatever kind of tokenizer a checkpoint has.

The oracle is decoding: character c is in the token with which the text decoded so far first reaches it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer as HFTokenizer

from tests.unit.workers.data.small_tokenizers import KINDS, byte_level, save
from workers.data.tokenizer import NoTokenError, Tokenizer

TEXTS = ["When Mary and John went", "naïve café 你好 Ünïcode über", "3.10 dollars, Ü."]


def decoded(backend: HFTokenizer, ids: list[int]) -> str:
    return str(backend.decode(ids, skip_special_tokens=True))


@pytest.mark.parametrize("bos", [True, False], ids=["bos", "no bos"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_each_character_is_found(tmp_path: Path, kind: str, bos: bool, text: str) -> None:
    """The text decoded before the token ends at or before the character, and the token takes it beyond."""
    backend = KINDS[kind](bos=bos)
    tokenizer = Tokenizer.load(save(backend, tmp_path))
    rows, places = tokenizer.encode_placed([text], [{str(at): at for at in range(len(text))}])
    ids = rows.row(0).tolist()
    assert decoded(backend, ids) == text
    for at in range(len(text)):
        token = int(places[str(at)][0])
        assert len(decoded(backend, ids[:token])) <= at < len(decoded(backend, ids[: token + 1]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_a_span_ends_at_the_token_that_completes_it(tmp_path: Path, kind: str, text: str) -> None:
    """With it the text decoded so far has the whole span, and with one token less it has not: `你` may be three."""
    backend = KINDS[kind]()
    tokenizer = Tokenizer.load(save(backend, tmp_path))
    rows, places = tokenizer.encode_placed([text], [{str(end): (0, end) for end in range(1, len(text) + 1)}])
    ids = rows.row(0).tolist()
    for end in range(1, len(text) + 1):
        token = int(places[str(end)][0])
        assert decoded(backend, ids[: token + 1])[:end] == text[:end]
        assert decoded(backend, ids[:token])[:end] != text[:end]


@pytest.mark.parametrize("place", [2, -1, (1, 3), 4], ids=["in no token", "negative", "span", "behind the end"])
def test_a_place_in_no_token_is_refused(tmp_path: Path, place: int | tuple[int, int]) -> None:
    """A tokenizer that trims its offsets leaves the blank out of ` b`; the error says which text and name."""
    tokenizer = Tokenizer.load(save(byte_level(trim=True), tmp_path))
    with pytest.raises(NoTokenError) as caught:
        tokenizer.encode_placed(["fine", "no b"], [{"at": 0}, {"at": place}])
    assert (caught.value.index, caught.value.name) == (1, "at")
