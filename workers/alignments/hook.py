"""The interchange of a learned alignment in a plain Hugging Face model: hooks on the model as it is.

Shapes, by suffix: B prompts, T tokens, D width of the site, K directions, V variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from workers.alignments.learned import AlignmentError
from workers.data.model_info import ModelError
from workers.engine.model import language_model_of
from workers.engine.sites import Tap, tap_of
from workers.methods.alignment import Alignment

if TYPE_CHECKING:
    from workers.alignments.learned import LearnedAlignment

PromptTokens = Tensor | Mapping[str, Tensor]


class Hook:
    """A context in which a model's passes over prompts take a variable's subspace from the source's run.

    A pass over fewer tokens than the position, as of the next token in a generation, is left alone.
    """

    def __init__(
        self,
        learned: LearnedAlignment,
        model: Any,
        source: PromptTokens,
        *,
        variables: Sequence[int],
        position: int | Sequence[int],
        source_position: int | Sequence[int],
    ) -> None:
        self._learned, self._model, self._source = learned, model, source
        self._variables, self._position, self._source_position = variables, position, source_position
        self._handles: list[RemovableHandle] = []
        self._shape: tuple[int, int] | None = None  # the running pass's: prompts, tokens

    def __enter__(self) -> Self:
        """Run the source, and hook the model. Raises: AlignmentError where it has no such place."""
        try:
            tap = tap_of(language_model_of(self._model), self._learned.place)
        except ModelError as error:
            raise AlignmentError(f"model: {error}") from error
        if tap.width != len(self._learned.directions_DK):
            width = len(self._learned.directions_DK)
            raise AlignmentError(f"model: {tap.width} numbers at {self._learned.place}; the alignment has {width}")
        self._columns = slice(tap.start, tap.start + tap.width)
        try:
            self._handles.append(self._model.register_forward_pre_hook(self._see, with_kwargs=True))
            self._source_BD = self._read(tap)
            self._handles.append(tap.hook(self._edit))
        except BaseException:
            self._unhook()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unhook()

    def _unhook(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _see(self, _model: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note how many prompts and tokens the pass has: some modules are shown rows and tokens in one."""
        tokens = arguments[0] if arguments else named.get("input_ids", named.get("inputs_embeds"))
        self._shape = None if tokens is None else (tokens.shape[0], tokens.shape[1])

    def _read(self, tap: Tap) -> Tensor:
        """source_BD in float32 of a run without intervention."""
        kept: list[Tensor] = []

        def keep(values: Tensor) -> None:
            rows_BTX, at = self._at(values, self._source_position, "source_position")
            kept.append(rows_BTX[at][:, self._columns].to(torch.float32, copy=True))

        handle = tap.hook(keep)
        source = {"input_ids": self._source} if isinstance(self._source, Tensor) else dict(self._source)
        try:
            with torch.no_grad():
                self._model(**source)
        finally:
            handle.remove()
        return kept[0]

    def _edit(self, values: Tensor) -> Tensor | None:
        if self._shape is not None and self._shape[1] <= _furthest(self._position):
            return None
        rows_BTX, at = self._at(values, self._position, "position")
        edited_BTX = rows_BTX.clone()
        base_BD = edited_BTX[at][:, self._columns].to(torch.float32, copy=True)
        n_prompts, n_sources = len(base_BD), len(self._source_BD)
        if n_sources not in (1, n_prompts):
            raise AlignmentError(f"source: {n_sources} prompts for {n_prompts} base prompts; give one, or one for each")
        mixed_BD = self._mixed(base_BD, self._source_BD.to(base_BD.device).expand(n_prompts, -1))
        row_B, token_B = at
        edited_BTX[row_B, token_B, self._columns] = mixed_BD.to(values)
        return edited_BTX.view(values.shape)

    def _mixed(self, base_BD: Tensor, source_BD: Tensor) -> Tensor:
        """The formula of the sweep itself (`workers.methods.alignment`)."""
        if len(self._variables) not in (1, len(base_BD)):
            n_names = len(self._variables)
            raise AlignmentError(f"variable: {n_names} names for {len(base_BD)} prompts; give one, or one for each")
        directions_DK, mask_VK = (
            torch.from_numpy(part).to(base_BD.device) for part in (self._learned.directions_DK, self._learned.mask_VK)
        )
        variable_B = torch.tensor(self._variables, device=base_BD.device).expand(len(base_BD))
        mix = Alignment(directions_DK[None], mask_VK[None]).mix(variable_B)
        return mix(base_BD[None], source_BD[None])[0]

    def _at(self, values: Tensor, position: int | Sequence[int], name: str) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The values as prompts x tokens x columns, and what picks the token of each prompt. Raises: AlignmentError."""
        n_prompts = values.shape[0] if self._shape is None else self._shape[0]
        rows_BTX = values.reshape(n_prompts, -1, values.shape[-1])
        places = [position] if isinstance(position, int) else list(position)
        if len(places) not in (1, n_prompts):
            raise AlignmentError(f"{name}: {len(places)} for {n_prompts} prompts; give one, or one for each")
        n_tokens = rows_BTX.shape[1]
        for place in places:
            if not -n_tokens <= place < n_tokens:
                raise AlignmentError(f"{name}: got {place}; the prompts have the tokens 0..{n_tokens - 1}")
        token_B = torch.tensor(places, device=values.device).expand(n_prompts) % n_tokens
        return rows_BTX, (torch.arange(n_prompts, device=values.device), token_B)


def _furthest(position: int | Sequence[int]) -> int:
    """The last token that a position needs; negative ones need as many."""
    places = [position] if isinstance(position, int) else list(position)
    return max(place if place >= 0 else -place - 1 for place in places)
