"""Seconds of single training steps, as the product takes them: a cohort through `fit`, and a cell through pyvene."""

from __future__ import annotations

import contextlib
import importlib
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import torch

from workers.data.pairs import PairSet
from workers.data.token_ids import n_common_prefix
from workers.engine.base import AbstractEngine
from workers.engine.model import LanguageModel
from workers.engine.reference import ReferenceEngine
from workers.engine.sites import width_of
from workers.engine.suffix import SuffixEngine
from workers.files.job import Cohort, JobCell, Stream
from workers.files.place import Place
from workers.methods.alignment import Column
from workers.methods.base import FitContext, rows_of, to_device
from workers.methods.checkpoint import CheckpointFile
from workers.methods.settings import method_settings
from workers.methods.states import PromptStates

Point = tuple[int, int]  # layer, position
N_WARM_UP: Final = 1  # steps at the beginning that do not count


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """One step: elapsed seconds, and seconds of the processor, which other programs on the machine hardly touch."""

    wall_s: float
    cpu_s: float


@dataclass(slots=True)
class StepClock:
    """A monitor that takes the time of each step, and the share of each phase."""

    device: torch.device
    steps: list[StepTime] = field(default_factory=list)
    phases_s: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    _marks: list[tuple[float, float]] = field(default_factory=list)

    def mark(self) -> None:
        """A step ends here."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self._marks.append((time.perf_counter(), time.process_time()))
        if len(self._marks) > 1:
            (wall, cpu), (wall_now, cpu_now) = self._marks[-2:]
            self.steps.append(StepTime(wall_s=wall_now - wall, cpu_s=cpu_now - cpu))

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        started = self._now()
        yield
        if len(self._marks) > N_WARM_UP:
            self.phases_s[name] += self._now() - started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def advance(self, *, cell_steps: int, pairs: int) -> None:
        self.mark()

    def resumed(self, *, cell_steps: int) -> None:
        self.mark()

    def checkpoint_due(self) -> bool:
        return False

    def checkpoint_written(self, seconds: float) -> None: ...

    def report(self, metrics: Mapping[str, float]) -> None: ...

    @property
    def measured(self) -> list[StepTime]:
        """The steps after the warm-up."""
        return self.steps[N_WARM_UP:]


def block_outputs(points: Sequence[Point]) -> list[Place]:
    """The places at the blocks' outputs."""
    return [Place(layer=layer, position=position) for layer, position in points]


def make_cohort(
    places: Sequence[Place], engine: str, batch_size: int, method: str = "boundless_das", **options: Any
) -> Cohort:
    """A cohort of cells at these places, one epoch; the method's other settings are its defaults."""
    stream = Stream(
        model={},
        task={},
        hypothesis="benchmark",
        seed=1,
        data={},
        method=method_settings(method, {"epochs": 1, "batch_size": batch_size} | options),
        engine=engine,
    )
    cells = tuple(JobCell(key=".".join(map(str, place.science().values())), place=place, token="") for place in places)
    return Cohort(experiment="benchmark", stream=stream, cells=cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A short training: its clock, and what came out."""

    clock: StepClock
    columns: list[Column]
    engine: AbstractEngine


def time_fit(
    model: LanguageModel,
    pairs: PairSet,
    places: Sequence[Place],
    engine_name: str,
    *,
    batch_size: int,
    micro_batch: int = 0,
    variables: tuple[str, ...] = ("P",),
    method: str = "boundless_das",
    **options: Any,
) -> Fitted:
    """A training of the cells at `places`, one step for each batch in `pairs`."""
    clock = StepClock(model.device)
    cohort = make_cohort(places, engine_name, batch_size, method, **options)
    engine = make_engine(model, pairs, places, engine_name)
    states = PromptStates(lambda: engine, pairs, places, model=model, micro_batch=micro_batch or batch_size)
    with TemporaryDirectory() as folder:
        context = FitContext(
            cohort=cohort,
            engine=engine,
            states=states,
            width_of=lambda place: width_of(model, place),
            variables=variables,
            train=pairs,
            validation=pairs,
            device=model.device,
            micro_batch=micro_batch or batch_size,
            checkpoint=CheckpointFile(Path(folder), cohort.key(), "benchmark-0001"),
            monitor=clock,
        )
        fit = importlib.import_module(f"workers.methods.{method}").fit
        return Fitted(clock=clock, columns=fit(context), engine=engine)


def make_engine(model: LanguageModel, pairs: PairSet, places: Sequence[Place], name: str) -> AbstractEngine:
    """The engine `name` for cells at these places, the prompts' common prefix computed."""
    if name == "reference":
        return ReferenceEngine(model)
    n_prefix = n_common_prefix(pairs.base, pairs.source)
    prefix_P = torch.from_numpy(pairs.base.ids_BT[0, :n_prefix]).to(model.device)
    return SuffixEngine(model, places=places, prefix_P=prefix_P)


def by_pyvene(model: LanguageModel, layer: int, method: str) -> Any:
    """pyvene's model with its intervention of that name at a block's output."""
    import pyvene

    kinds = {
        "interchange": pyvene.VanillaIntervention,
        "das": pyvene.LowRankRotatedSpaceIntervention,
        "boundless_das": pyvene.BoundlessRotatedSpaceIntervention,
    }
    representation = pyvene.RepresentationConfig(layer, "block_output", "pos", 1, low_rank_dimension=1)
    config = pyvene.IntervenableConfig(
        model_type=type(model.model), representations=[representation], intervention_types=kinds[method]
    )
    return pyvene.IntervenableModel(config, model.model)


@torch.no_grad()
def swap_by_pyvene(model: LanguageModel, pairs: PairSet, point: Point) -> torch.Tensor:
    """What one cell's swapped vector makes the model say, by pyvene: said_B."""
    layer, position = point
    batch = to_device(pairs, model.device)
    _, output = by_pyvene(model, layer, "interchange")(
        {"input_ids": batch.base.ids_BT}, [{"input_ids": batch.source.ids_BT}], {"sources->base": position}
    )
    said_B: torch.Tensor = output.logits[:, -1].argmax(dim=-1)
    return said_B


def time_pyvene(
    model: LanguageModel,
    pairs: PairSet,
    point: Point,
    *,
    batch_size: int,
    micro_batch: int = 0,
    method: str = "boundless_das",
) -> StepClock:
    """The clock of a training of one cell by pyvene, as its tutorials write it."""
    layer, position = point
    is_boundless = method == "boundless_das"
    intervenable = by_pyvene(model, layer, method)
    intervention: Any = next(iter(intervenable.interventions.values())).to(model.device)
    learned = [{"params": intervention.rotate_layer.parameters(), "lr": 1e-3}]
    if is_boundless:
        learned.append({"params": [intervention.intervention_boundaries], "lr": 1e-2})
    optimizer = torch.optim.Adam(learned)
    batches = to_device(pairs, model.device)
    clock = StepClock(model.device)
    clock.mark()
    for start in range(0, len(pairs), batch_size):
        if is_boundless:
            intervention.set_temperature(torch.tensor(50.0, device=model.device))
        for first in range(start, start + batch_size, micro_batch or batch_size):
            part = rows_of(batches, first, first + (micro_batch or batch_size))
            _, output = intervenable(
                {"input_ids": part.base.ids_BT}, [{"input_ids": part.source.ids_BT}], {"sources->base": position}
            )
            loss = torch.nn.functional.cross_entropy(output.logits[:, -1].float(), part.label_B)
            if is_boundless:
                loss = loss + intervention.intervention_boundaries.sum()
            (loss * len(part) / batch_size).backward()
        optimizer.step()
        intervenable.set_zero_grad()
        clock.mark()
    return clock


def largest_that_fits(run: Callable[[int], StepClock], batch_size: int) -> tuple[StepClock, int]:
    """The clock of `run(micro_batch)` with the largest micro-batch that memory allows, and that size."""
    micro_batch = batch_size
    while True:
        try:
            return run(micro_batch), micro_batch
        except torch.OutOfMemoryError:
            if micro_batch == 1:
                raise
            micro_batch //= 2
        torch.cuda.empty_cache()


def median_of(times: Sequence[StepTime], what: str) -> float:
    """The median step's `wall_s` or `cpu_s`."""
    return statistics.median(getattr(step, what) for step in times)
