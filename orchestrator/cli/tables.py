"""Tables for people that fit the width they are given, in which no number is ever cut.

What all rows share goes to the head line. Secondary columns appear as far as there is room. Where even the others do
not fit side by side they are stacked: a row takes several lines, and so does the header. A row that would take more
than three lines becomes a list of names and values. Only a text that is wider than the whole table ends in `...`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    import pandas as pd

NO_LIMIT: Final = 10_000
_GAP: Final = 2
_MOST_LINES: Final = 3
_INDENT: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How a frame is shown. `secondary` columns give way first; `shareable` ones go to the head line where all rows
    have one value. `titles` are the columns' names for people, `decimals` those of a rate."""

    secondary: Collection[str] = ()
    shareable: Collection[str] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    decimals: int = 4

    def title(self, column: str) -> str:
        """The name of a column for people."""
        return self.titles.get(column, column)


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cells: tuple[str, ...]
    is_number: bool

    @property
    def width(self) -> int:
        return max(map(cell_len, (self.title, *self.cells)))

    def at(self, row: int | None, width: int) -> str:
        """The cell of a row (None: the title) in exactly this width; a text that is wider ends in `...`."""
        text = self.title if row is None else self.cells[row]
        if cell_len(text) > width:
            text = set_cell_size(text, max(width - 3, 0)) + "..."
        filling = " " * (width - cell_len(text))
        return filling + text if self.is_number else text + filling


def text_of(value: Any, decimals: int = 4) -> str:
    """A value for people: an absent one is empty; a number that the decimals would make 0 has an exponent."""
    if _is_absent(value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return str(value)
    if isinstance(value, Real):
        number = float(value)
        if math.isinf(number):
            return str(number)
        is_plain = number == 0 or 10.0**-decimals <= abs(number) < 1e7
        return f"{number:.{decimals}f}" if is_plain else f"{number:.2e}"
    return str(value).replace("\n", "\\n").replace("\t", "\\t")


def _is_absent(value: Any) -> bool:
    """Whether it is None, NaN, or one of pandas' own marks; these are equal to nothing, and have no truth value."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def table(frame: pd.DataFrame, *, width: int, layout: Layout | None = None, wide: bool = False) -> list[str]:
    """The lines of the table: head line, header, rows, and what was left out. `wide` has every column on one line."""
    layout = layout or Layout()
    if frame.empty:
        return ["no rows"]
    columns = {name: _column(frame, name, layout) for name in frame.columns}
    shared = _shared(columns, layout) if len(frame) > 1 else {}
    shown = [name for name in columns if name not in shared]
    left_out = [] if wide else _given_way(columns, shown, layout, width)
    kept = [columns[name] for name in shown if name not in left_out]
    lines = [*_head(shared, width), *_body(kept, len(frame), NO_LIMIT if wide else width)]
    if left_out:
        lines += _wrapped(f"--wide shows also: {', '.join(map(layout.title, left_out))}", width)
    return lines


def formatted(frame: pd.DataFrame, layout: Layout, *, wide: bool = False) -> pd.DataFrame:
    """The frame with names and values for people, for a document; `wide` with the secondary columns. Columns in which
    nothing is said are left out."""
    import pandas as pd

    columns = (_column(frame, name, layout) for name in frame.columns if wide or name not in layout.secondary)
    return pd.DataFrame({one.title: list(one.cells) for one in columns if any(one.cells)}, dtype=object)


def markdown(frame: pd.DataFrame) -> str:
    """A frame of texts as a Markdown table; numbers are aligned to the right."""
    cells = [[str(value).replace("|", "\\|") for value in row] for row in frame.itertuples(index=False)]
    rules = ["--:" if _all_numbers(frame[name]) else "---" for name in frame.columns]
    lines = [list(map(str, frame.columns)), rules, *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(frame: pd.DataFrame) -> str:
    """A frame of texts as a LaTeX table with the rules of the package booktabs."""
    form = "".join("r" if _all_numbers(frame[name]) else "l" for name in frame.columns)
    return str(frame.rename(columns=_escaped).map(_escaped).to_latex(index=False, column_format=form))


_LATEX: Final = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"}
)  # fmt: skip


def _escaped(text: Any) -> str:
    return str(text).translate(_LATEX)


def _all_numbers(texts: Sequence[str]) -> bool:
    def is_number(text: str) -> bool:
        try:
            float(text)
        except ValueError:
            return text == ""
        return True

    return all(map(is_number, texts)) and any(texts)


def _column(frame: pd.DataFrame, name: str, layout: Layout) -> _Column:
    values = frame[name].tolist()
    is_number = all(_is_absent(value) or (isinstance(value, Real) and not isinstance(value, bool)) for value in values)
    return _Column(layout.title(name), tuple(text_of(value, layout.decimals) for value in values), is_number)


def _shared(columns: dict[str, _Column], layout: Layout) -> dict[str, _Column]:
    """The columns in which every row says the same; one at least stays in the table."""
    found = {
        name: column for name, column in columns.items() if name in layout.shareable and len(set(column.cells)) == 1
    }
    return found if len(found) < len(columns) else {}


def _head(shared: dict[str, _Column], width: int) -> list[str]:
    """The line of what all rows share; what is empty in all of them is not named."""
    parts = [f"{column.title} {column.cells[0]}" for column in shared.values() if column.cells[0]]
    return [*_wrapped(", ".join(parts), width), ""] if parts else []


def _wrapped(text: str, width: int) -> list[str]:
    lines: list[str] = []
    for word in text.split(" "):
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _given_way(columns: dict[str, _Column], shown: Sequence[str], layout: Layout, width: int) -> list[str]:
    """The secondary columns for which there is no room, the last ones first."""
    left_out: list[str] = []
    for name in reversed([name for name in shown if name in layout.secondary]):
        if _total(columns[other] for other in shown if other not in left_out) <= width:
            break
        left_out.insert(0, name)
    return left_out


def _total(columns: Iterable[_Column]) -> int:
    widths = [column.width for column in columns]
    return sum(widths) + _GAP * (len(widths) - 1)


def _body(columns: Sequence[_Column], n_rows: int, width: int) -> list[str]:
    stacks = _stacks(columns, width)
    if len(stacks) > _MOST_LINES:
        return _records(columns, n_rows, width)
    rows: list[int | None] = [None, *range(n_rows)]
    return [_line(stack, row, index > 0, width) for row in rows for index, stack in enumerate(stacks)]


def _stacks(columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """The columns in as many lines as they need, in their order; the lines after the first are indented."""
    stacks: list[list[_Column]] = []
    used = 0
    for column in columns:
        if stacks and used + _GAP + column.width <= width:
            stacks[-1].append(column)
            used += _GAP + column.width
        else:
            used = column.width + (_INDENT if stacks else 0)
            stacks.append([column])
    return stacks


def _line(stack: Sequence[_Column], row: int | None, is_indented: bool, width: int) -> str:
    indent = _INDENT if is_indented else 0
    texts = [column.at(row, min(column.width, width - indent)) for column in stack]
    return (" " * indent + (" " * _GAP).join(texts)).rstrip()


def _records(columns: Sequence[_Column], n_rows: int, width: int) -> list[str]:
    """Each row as names and values, one a line; a name gives way to a number."""
    numbers = max((cell_len(cell) for column in columns if column.is_number for cell in column.cells), default=0)
    names = min(max(cell_len(column.title) for column in columns), max(width - _GAP - numbers, 4))
    lines: list[str] = []
    for row in range(n_rows):
        lines += [""] if row else []
        for column in columns:
            room = max(width - names - _GAP, 4)
            text = column.at(row, min(cell_len(column.cells[row]), room))
            lines.append(f"{set_cell_size(column.title, names)}{' ' * _GAP}{text}".rstrip())
    return lines
