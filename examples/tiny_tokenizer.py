"""Tokenizers for the small models of the examples: a short list of pieces, and every printable ASCII character.

One regular expression cuts a text into words (with the blank before them), digits, newlines and signs. A word that is
not a piece is cut into its characters, and a character that is not ASCII becomes `<unk>`. Decoding joins the pieces, so
`decode(encode(text)) == text` for ASCII text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

UNKNOWN, BOS, EOS = "<unk>", "<s>", "</s>"
CHARACTERS = ["\n", *map(chr, range(0x20, 0x7F))]


def build_tokenizer(texts: Iterable[str], *, splits: Sequence[tuple[str, ...]] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer whose pieces are the words of `texts`, except that each of `splits` is cut into its parts.

    A split such as (" pa", "ired") makes two tokens of " paired". BOS is put before each text.
    """
    pattern = _word_pattern(splits)
    pieces = dict.fromkeys(piece for text in texts for piece in re.findall(pattern, text))
    vocabulary = list(dict.fromkeys([UNKNOWN, BOS, EOS, *CHARACTERS, *pieces]))
    # No merges: a word that is not a piece stays cut into characters.
    model = models.BPE(
        vocab={piece: index for index, piece in enumerate(vocabulary)}, merges=[], unk_token=UNKNOWN, ignore_merges=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocabulary.index(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def _word_pattern(splits: Sequence[tuple[str, ...]]) -> str:
    """The regular expression of one piece; Python's `re` and the tokenizers library read it alike."""
    cuts = [_cut(parts, index) for parts in splits for index in range(len(parts))]
    return "|".join([*cuts, "##", "[0-9]", " ?[A-Za-z]+", r"[\s\S]"])


def _cut(parts: tuple[str, ...], index: int) -> str:
    """Part `index` of a split word, where the parts around it are there too and no letter follows the word."""
    before, after = "".join(parts[:index]), "".join(parts[index + 1 :])
    return f"(?<={re.escape(before)}){re.escape(parts[index])}(?={re.escape(after)}(?![A-Za-z]))"
