"""Which engine runs a cohort: the fast one where it was tried and found exact, else the plain one, which says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from workers.data.pairs import PairSet
from workers.data.token_ids import n_common_prefix
from workers.engine.base import AbstractEngine
from workers.engine.check import exact_form, inexact_sites
from workers.engine.meaning import check_meaning
from workers.engine.model import LanguageModel
from workers.engine.reference import ReferenceEngine
from workers.engine.sites import width_of
from workers.engine.suffix import SuffixEngine
from workers.files.job import Job
from workers.files.place import BLOCK_OUTPUT, AnyPlace


class Engines:
    """The engines of one job's model. Every site that the job uses is tried before the first cohort runs.

    `model` is in the form that the fast engine is exact in; `say` is told where the plain one takes its place.
    Raises: SiteError where the model lacks a site of the job.
    """

    def __init__(self, job: Job, model: LanguageModel, say: Callable[[str], None]) -> None:
        self.model, self._say = model, say
        cells = [
            (cohort.stream.engine, point)
            for cohort in job.cohorts
            for cell in cohort.cells
            for point in cell.place.points
        ]
        self._places = [place for _, place in cells if place.site != BLOCK_OUTPUT]
        self._fast_places = [place for name, place in cells if name != "reference" and place.site != BLOCK_OUTPUT]
        check_meaning(model, self._places)
        self._refused: dict[str, str] | None = None  # by site, and why; None: not tried yet

    def width_of(self, place: AnyPlace) -> int:
        """How many numbers a token has at `place`. Raises: SiteError."""
        return width_of(self.model, place)

    def kind(self, name: str, places: Sequence[AnyPlace]) -> type[SuffixEngine | ReferenceEngine]:
        """The engine in which cells at `places` run that ask for `name`."""
        if name == "reference" or any(point.site in self._refusals() for place in places for point in place.points):
            return ReferenceEngine
        return SuffixEngine

    def engine(self, name: str, places: Sequence[AnyPlace], *pair_sets: PairSet) -> AbstractEngine:
        """The engine for cells at `places`, the prefix common to all these pairs taken out."""
        if self.kind(name, places) is ReferenceEngine:
            return ReferenceEngine(self.model)
        prompts = [part for pairs in pair_sets for part in (pairs.base, pairs.source)]
        positions = [point.position for place in places for point in place.points]
        n_prefix = min(n_common_prefix(*prompts), *(part.first_token(positions) for part in prompts))
        first = torch.from_numpy(prompts[0].ids_BT[0, :n_prefix]).to(self.model.device)
        return SuffixEngine(self.model, places=places, prefix_P=first)

    def _refusals(self) -> dict[str, str]:
        """The sites that the fast engine must not be used for; the log and the progress file say which and why."""
        if self._refused is None:
            exact, why = exact_form(self.model)
            self.model = exact or self.model
            used = {BLOCK_OUTPUT, *(place.site for place in self._fast_places)}
            self._refused = inexact_sites(self.model, self._fast_places) if exact else dict.fromkeys(used, why)
            kind = type(self.model.model).__name__
            reasons = {"": why} if why else {f" at `{site}`": reason for site, reason in self._refused.items()}
            for where, reason in reasons.items():
                self._say(f"{kind} is run by the reference engine{where}, the suffix engine is not exact: {reason}")
        return self._refused
