"""Activations that several methods of a job read of the same prompts: one forward for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from workers.data.pairs import PairSet
from workers.files.job import Cohort, canonical_json
from workers.files.place import AnyPlace
from workers.job.engines import Engines
from workers.job.memory import available_device_bytes
from workers.job.monitor import JobMonitor
from workers.methods.settings import METHODS, places_read
from workers.methods.states import PromptStates

TRAIN: Final = "train"  # the prompts that methods are fitted on; every other name is a setting that readings read
_SHARE: Final = 0.2  # share of the available memory that activations are kept in


class SharedStates:
    """The prompts that the cohorts of a job read, as long as a cohort follows that reads the same ones."""

    def __init__(self, cohorts: Sequence[Cohort], engines: Engines, monitor: JobMonitor) -> None:
        self._cohorts, self._engines, self._monitor = cohorts, engines, monitor
        self._data = ""  # whose prompts are kept
        self._states: dict[str, PromptStates] = {}  # by TRAIN, or the setting's name

    def of(
        self,
        cohort: Cohort,
        pairs: PairSet,
        name: str,
        *,
        micro_batch: int,
        moved: Callable[[AnyPlace], AnyPlace] = lambda place: place,
    ) -> PromptStates:
        """The base prompts of `pairs` at every place that `cohort`, and the cohorts of the same data, read.

        `moved` says where a place lies in these prompts.
        """
        if (data := data_of(cohort)) != self._data:
            self._data, self._states = data, {}
        own = {moved(place) for place in self._read_by(cohort)}
        known = self._states.get(name)
        if known is not None and known.is_kept and own <= known.places:
            return known
        others = [one for one in self._cohorts if data_of(one) == data and _reads(one, name)]
        every = own | {moved(place) for one in others for place in self._read_by(one)}
        keeps = len(others) > 1 and self._fits(every, len(pairs))
        places = sorted(every if keeps else own, key=lambda place: place.rank)
        states = PromptStates(
            lambda: self._engines.engine(cohort.stream.engine, places, pairs),
            pairs,
            places,
            model=self._engines.model,
            micro_batch=micro_batch,
            keeps=keeps,
            timed=lambda: self._monitor.timed("shared_forward"),
        )
        if keeps:
            self._states[name] = states
        return states

    def _read_by(self, cohort: Cohort) -> list[AnyPlace]:
        places = [cell.place for cell in cohort.cells]
        return places_read(cohort.stream.method, places, self._engines.model.n_layers)

    def _fits(self, places: set[AnyPlace], n_prompts: int) -> bool:
        n_bytes = 4 * n_prompts * sum(self._engines.width_of(place) for place in places)
        return n_bytes <= _SHARE * available_device_bytes(self._engines.model.device)


def data_of(cohort: Cohort) -> str:
    """What decides the cohort's prompts and what the model makes of them: all of its stream but the method."""
    return canonical_json({name: value for name, value in cohort.stream.science().items() if name != "method"})


def _reads(cohort: Cohort, name: str) -> bool:
    method = METHODS[cohort.stream.method["name"]]
    return method.fits == "on activations" if name == TRAIN else not method.changes_model
