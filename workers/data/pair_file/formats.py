"""The formats that the field's data sets come in: each row of one becomes rows in our columns.

Source: the data sets' own columns. MIB (`mib-bench`): `prompt`, `choices {label, text}` and `answerKey`, or `metadata`
with the names of an indirect object; a struct of the same for each kind of counterfactual, `<name>_counterfactual`.
RAVEL: `input, label, source_input, source_label, inv_label, split, entity, source_entity`. CausalGym: `base` and `src`
as lists of spans, `base_label`, `src_label`, `task`. causalab: `input, counterfactual_inputs, base_answer, cf_answer,
label`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from workers.data.pair_file.rows import RowError

_COUNTERFACTUAL: Final = "_counterfactual"

Format = Callable[[Mapping[str, Any]], Iterator[Mapping[str, Any]]]


def formatted(raw: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    """The rows that the row of a file of this format means, its own columns still in each. Raises: RowError."""
    for row in FORMATS[name](raw):
        yield {**raw, **row}


def _plain(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield {}


def _ravel(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """`entity` is a position where the row names it: the last token of its last mention."""
    base, source = _of(raw, "input", str), _of(raw, "source_input", str)
    positions = {}
    if raw.get("entity") is not None:
        positions = {
            "base": {"entity": _mention(base, _of(raw, "entity", str), "entity")},
            "source": {"entity": _mention(source, _of(raw, "source_entity", str), "source_entity")},
        }
    yield {
        "base": base,
        "base_answer": raw.get("label"),
        "source": source,
        "source_answer": raw.get("source_label"),
        "label": _of(raw, "inv_label", str),
        "positions": positions,
    }


def _causalgym(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The spans of a prompt are positions `span_0`, `span_1`, ...: the last token of each."""
    base, source = (_spans(raw, column) for column in ("base", "src"))
    yield {
        "base": "".join(base),
        "base_answer": raw.get("base_label"),
        "source": "".join(source),
        "source_answer": raw.get("src_label"),
        "label": _of(raw, "src_label", str),
        "hypothesis": raw.get("task"),
        "positions": {"base": _ends(base), "source": _ends(source)},
    }


def _causalab(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    sources = _of(raw, "counterfactual_inputs", list)
    if len(sources) != 1:
        right = "expected one: a row interchanges one variable, from one source"
        raise RowError("counterfactual_inputs", f"has {len(sources)} texts; {right}")
    yield {
        "base": _raw_input(_of(raw, "input"), "input"),
        "source": _raw_input(sources[0], "counterfactual_inputs"),
        "source_answer": raw.get("cf_answer"),
    }


def _mib(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A pair for each counterfactual and hypothesis.

    Multiple choice: `answer` (the letter itself) and `answer_pointer` (which of the choices). Indirect objects:
    `output_token` (the name itself) and `output_position` (which of the two).
    """
    kinds = [column for column in raw if column.endswith(_COUNTERFACTUAL) and raw[column] is not None]
    if not kinds:
        raise RowError(f"<name>{_COUNTERFACTUAL}", "missing; a row has its counterfactuals in columns of such names")
    chosen = _choice if raw.get("choices") is not None else _indirect_object
    token, place = ("answer", "answer_pointer") if chosen is _choice else ("output_token", "output_position")
    for column in kinds:
        other = _of(raw, column, Mapping)
        (base, base_names, base_at), (source, source_names, source_at) = chosen(raw, ""), chosen(other, f"{column}.")
        if source_at >= len(base_names):
            raise RowError(column, f"its answer is choice {source_at + 1}, and the base has {len(base_names)}")
        shared = {
            "base": base,
            "base_answer": _after(base, base_names[base_at]),
            "source": source,
            "source_answer": _after(source, source_names[source_at]),
            "counterfactual": column.removesuffix(_COUNTERFACTUAL),
        }
        yield shared | {"hypothesis": token, "label": _after(base, source_names[source_at])}
        yield shared | {"hypothesis": place, "label": _after(base, base_names[source_at])}


def _choice(row: Mapping[str, Any], place: str) -> tuple[str, list[str], int]:
    """The prompt, the letters of its choices, and the index of the right one."""
    choices = _of(row, "choices", Mapping, place)
    letters = _of(choices, "label", list, f"{place}choices.")
    index = _of(row, "answerKey", None, place)
    if isinstance(index, str) and index in letters:
        index = letters.index(index)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(letters):
        raise RowError(f"{place}answerKey", f"got {index!r}; expected the index of one of the {len(letters)} choices")
    return _of(row, "prompt", str, place), letters, index


def _indirect_object(row: Mapping[str, Any], place: str) -> tuple[str, list[str], int]:
    """The prompt, its two names in their order, and the index of the indirect object."""
    prompt, names = _of(row, "prompt", str, place), _of(row, "metadata", Mapping, place)
    pair = [_of(names, key, str, f"{place}metadata.") for key in ("indirect_object", "subject")]
    if absent := [name for name in pair if name not in prompt]:
        raise RowError(f"{place}metadata", f"{absent[0]!r} is not in the prompt")
    ordered = sorted(pair, key=prompt.index)
    return prompt, ordered, ordered.index(pair[0])


FORMATS: Final[Mapping[str, Format]] = {
    "": _plain,
    "mib": _mib,
    "ravel": _ravel,
    "causalgym": _causalgym,
    "causalab": _causalab,
}


def _of(row: Mapping[str, Any], column: str, kind: Any = None, place: str = "") -> Any:
    if row.get(column) is None:
        raise RowError(f"{place}{column}", f"missing; there are {', '.join(map(str, row))}")
    if kind is not None and not isinstance(row[column], kind):
        raise RowError(f"{place}{column}", f"got {row[column]!r}; expected {_KINDS[kind]}")
    return row[column]


_KINDS: Final[Mapping[Any, str]] = {str: "a text", list: "a list", Mapping: "a mapping"}


def _mention(text: str, entity: str, column: str) -> tuple[int, int]:
    at = text.rfind(entity)
    if not entity or at < 0:
        raise RowError(column, f"got {entity!r}, which is not in the prompt {text[-60:]!r}")
    return at, at + len(entity)


def _spans(raw: Mapping[str, Any], column: str) -> list[str]:
    spans: list[str] = _of(raw, column, list)
    if not all(isinstance(span, str) and span for span in spans):
        raise RowError(column, f"got {spans!r}; expected a list of texts, none of them empty")
    return spans


def _ends(spans: list[str]) -> dict[str, tuple[int, int]]:
    found, start = {}, 0
    for index, span in enumerate(spans):
        found[f"span_{index}"] = (start, start + len(span))
        start += len(span)
    return found


def _raw_input(value: Any, column: str) -> Any:
    """A text, or a struct that has it as `raw_input`."""
    return _of(value, "raw_input", str, f"{column}.") if isinstance(value, Mapping) else value


def _after(prompt: str, answer: str) -> str:
    """The answer as it follows the prompt: behind a blank, unless the prompt ends with one."""
    return answer if prompt[-1:].isspace() else f" {answer}"
