"""One cohort from data to rows: fit its cells side by side, evaluate them on every setting, save what they learned."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from workers.data.layout import moved_positions
from workers.data.model_info import ModelError
from workers.data.pairs import PairSet, PromptSet
from workers.data.source import AbstractPairSource, Keep
from workers.data.sources import open_source
from workers.data.tokenizer import Tokenizer
from workers.engine.base import TokenBatch
from workers.engine.model import LanguageModel, last_logits
from workers.files.job import MAIN_SETTING, Cohort, Job, Setting, Stream, canonical_json
from workers.files.place import AnyPlace
from workers.files.place import moved as moved_place
from workers.job.engines import Engines
from workers.job.evaluate import Counts, FullSwap, count_right, random_control
from workers.job.gate import gate_result
from workers.job.monitor import JobMonitor
from workers.job.reading_counts import count_read
from workers.job.rows import GateResult, cell_row, measured, utc
from workers.job.saved import load_columns, save_columns
from workers.job.shared import TRAIN, SharedStates, data_of
from workers.job.traces import traces_of
from workers.methods.alignment import CellFacts, Column, Intervention, Steering, groups_of
from workers.methods.base import FitContext, NotApplicable, to_device
from workers.methods.checkpoint import CheckpointFile
from workers.methods.labels import Labels
from workers.methods.reading import AbstractReading
from workers.methods.settings import METHODS, settings_object
from workers.methods.steering import ONE_TOKEN
from workers.tasks import TaskError

log = logging.getLogger(__name__)

_EVALUATION_BATCH: Final = 64
_SIZES: Final = {"test": "n_test", "validation": "n_eval"}  # the numbers of pairs of the splits that cells are tried on


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """A setting's task, its pairs in the order in which they were tried, the counts of every cell, and how many pairs
    were left out, where some may be."""

    data: TaskData
    pairs: PairSet
    counts: list[list[Counts]]
    n_dropped: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """Where the pairs come from, and the model's own accuracy on their prompts."""

    source: AbstractPairSource
    gate: GateResult


class Workbench:
    """What all cohorts of a job share: model, tokenizer, and each task's data, measured once."""

    def __init__(
        self,
        job: Job,
        language_model: LanguageModel,
        tokenizer: Tokenizer,
        monitor: JobMonitor,
        *,
        cohorts: Sequence[Cohort],
    ) -> None:
        """`cohorts` are those that are still to be run."""
        self.job, self.tokenizer, self.monitor = job, tokenizer, monitor
        self.engines = Engines(job, language_model, self._say)
        self.states = SharedStates(cohorts, self.engines, monitor)
        self.full_swaps: dict[str, dict[AnyPlace, FullSwap]] = {}  # by data and setting, for all methods
        self._sources: dict[str, AbstractPairSource] = {}
        self._gates: dict[str, GateResult] = {}
        self._solved: dict[str, NDArray[np.bool_]] = {}

    def _say(self, note: str) -> None:
        log.warning("%s", note)
        self.monitor.update(notes=(*self.monitor.progress.notes, note))

    @property
    def language_model(self) -> LanguageModel:
        """The model in the form that its engine takes."""
        return self.engines.model

    def task_data(
        self, settings: Mapping[str, Any], hypothesis: str, n_prompts: int, *, threshold: float = 0.0
    ) -> TaskData:
        """The source of these settings, its gate measured on `n_prompts` prompts; on fewer where it is sure that the
        model is below `threshold`. Raises: TaskError."""
        name = canonical_json(dict(settings))
        if name not in self._sources:
            self._sources[name] = open_source(settings, self.tokenizer, self.job.sweep_folder)
        source = self._sources[name]
        gate = canonical_json([name, source.gate_group(hypothesis), n_prompts])
        found = self._gates.get(gate)
        if found is None or not (found.is_whole or threshold):
            prompts = source.prompts(hypothesis, n_prompts=n_prompts)
            self._gates[gate] = gate_result(prompts, self.answers_right, threshold=threshold)
        return TaskData(source=source, gate=self._gates[gate])

    def pairs(
        self, stream: Stream, task: Mapping[str, Any], split: str, size: str, keep: Keep | None = None
    ) -> tuple[PairSet, int | None]:
        """The split's pairs of `task`, and how many were left out because the model gets their base or source wrong,
        where the stream's data keep to `correct` ones (and `keep` asks for no others). Raises: TaskError."""
        source = self.task_data(task, stream.hypothesis, int(stream.data["n_test"])).source
        n_pairs = int(stream.data[size])
        pairs = source.pairs(stream.hypothesis, n_pairs=n_pairs, split=split, seed=stream.seed, keep=keep)
        if keep is not None or stream.data.get("keep") != "correct":
            return pairs, None
        name = canonical_json([dict(task), stream.hypothesis, stream.seed, split, n_pairs])
        if name not in self._solved:
            self._solved[name] = self._is_solved(pairs)
        solved_B = self._solved[name]
        if not solved_B.any():
            raise NotApplicable(f"data.keep: the model answers base and source right in none of {len(pairs):,} pairs")
        return pairs.take(np.flatnonzero(solved_B)), int((~solved_B).sum())

    def _is_solved(self, pairs: PairSet) -> NDArray[np.bool_]:
        """Whether the model answers each pair's base and source right."""
        base, source = (self.answers_right(PromptSet.of_side(pairs, side)) for side in ("base", "source"))
        return base & source

    @torch.no_grad()
    def answers_right(self, prompts: PromptSet) -> NDArray[np.bool_]:
        """Whether the model answers each prompt right. Raises: ModelError where its logits are no numbers."""
        if len(prompts.label_B) == 0:
            return np.zeros(0, dtype=bool)
        model = self.language_model
        batch = TokenBatch.answered(prompts.prompts, prompts.label_BN, model.device)
        label_BN = torch.from_numpy(prompts.label_BN).to(model.device)
        parts = [batch.rows(start, start + _EVALUATION_BATCH) for start in range(0, len(batch), _EVALUATION_BATCH)]
        said = []
        for part, some_BN in zip(parts, label_BN.split(_EVALUATION_BATCH), strict=True):
            logits_MV = last_logits(model.model, part.reads, input_ids=part.ids_BT, use_cache=False)
            if logits_MV.isnan().any():
                dtype = str(model.dtype).removeprefix("torch.")
                raise ModelError(
                    f"{self.job.model_path}: its logits are no numbers (NaN) in {dtype}; its weights hold NaN, or it "
                    "needs another `model.dtype`: bfloat16 and float32 reach further than float16"
                )
            said.append(Labels.of(some_BN).are_said(logits_MV[None])[0])
        return torch.cat(said).cpu().numpy()


def fit_cohort(bench: Workbench, cohort: Cohort, checkpoint: CheckpointFile, *, micro_batch: int) -> list[Column]:
    """The fitted columns of the cohort. Raises: Interrupted, NotApplicable, TaskError, torch.OutOfMemoryError."""
    stream = cohort.stream
    with bench.monitor.timed("data"):
        source = bench.task_data(stream.task, stream.hypothesis, int(stream.data["n_test"])).source
        train, _ = bench.pairs(stream, stream.task, "train", "n_train")
        validation, _ = bench.pairs(stream, stream.task, "validation", "n_eval")
    places = [cell.place for cell in cohort.cells]
    context = FitContext(
        cohort=cohort,
        engine=bench.engines.engine(stream.engine, places, train, validation),
        states=bench.states.of(cohort, train, TRAIN, micro_batch=micro_batch),
        width_of=bench.engines.width_of,
        variables=source.variables[stream.hypothesis],
        train=train,
        validation=validation,
        device=bench.language_model.device,
        micro_batch=micro_batch,
        checkpoint=checkpoint,
        monitor=bench.monitor,
        folder=bench.job.sweep_folder,
    )
    method = importlib.import_module(f"workers.methods.{stream.method['name']}")
    columns: list[Column] = method.fit(context)
    return columns


def saved_columns(bench: Workbench, cohort: Cohort) -> list[Column]:
    """The columns of the cohort, trained and saved earlier. Raises: OSError."""
    engines, places = bench.engines, [cell.place for cell in cohort.cells]
    join_places = engines.kind(cohort.stream.engine, places).joins_places
    groups = groups_of(cohort.cells, width_of=engines.width_of, join_places=join_places)
    return load_columns(bench.job.sweep_folder.alignments, groups, bench.language_model.device)


def evaluate_cohort(
    bench: Workbench,
    cohort: Cohort,
    columns: Sequence[Column],
    settings: Iterable[Setting],
    started: float,
    *,
    traces: list[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """The rows of every cell of the cohort on these settings; `traces` are added to. Raises: TaskError."""
    n_cells = len(cohort.cells)
    metric = METHODS[cohort.stream.method["name"]].metric
    # nulls depend on the cells alone: they are the same on every setting
    controls = [None if isinstance(column.learned, AbstractReading) else random_control(column) for column in columns]
    for setting in settings:
        with bench.monitor.timed("evaluation"):
            found = evaluate_setting(bench, cohort, columns, setting, controls=controls)
        data, counts, n_dropped = found.data, found.counts, found.n_dropped
        variables = data.source.variables[cohort.stream.hypothesis]
        if setting.name == MAIN_SETTING:
            traces += traces_of(columns, counts, found.pairs, variables=variables, tokenizer=bench.tokenizer)
        ended = time.time()
        times = {"started": utc(started), "ended": utc(ended), "gpu_seconds": (ended - started) / n_cells}
        times["peak_memory_bytes"] = bench.monitor.progress.peak_memory_bytes
        for column, column_counts in zip(columns, counts, strict=True):
            for cell, facts, count in zip(column.cells, column.facts, column_counts, strict=True):
                row = cell_row(cohort, cell, setting.name, variables, data.gate) | times
                yield row | {"n_dropped": n_dropped} | _outcome(facts, count, data.gate, metric)


def _outcome(facts: CellFacts, counts: Counts, gate: GateResult, metric: str) -> dict[str, Any]:
    if facts.failure:
        return {"status": "failed", "reason": facts.failure, "steps": facts.steps}
    return measured(counts, facts, gate, metric)


def evaluate_setting(
    bench: Workbench,
    cohort: Cohort,
    columns: Sequence[Column],
    setting: Setting,
    *,
    controls: Sequence[Intervention | None],
) -> Evaluated:
    """What every cell does on the setting's test pairs. Raises: TaskError."""
    stream = cohort.stream
    n_test = int(stream.data["n_test"])
    own = bench.task_data(stream.task, stream.hypothesis, n_test)
    data = bench.task_data({**stream.task, **setting.task}, stream.hypothesis, n_test)
    keep = None if setting.keep == "all" else Keep(which=setting.keep, is_right=bench.answers_right)
    try:
        size = _SIZES[setting.split]
        pairs, n_dropped = bench.pairs(stream, {**stream.task, **setting.task}, setting.split, size, keep)
    except (TaskError, NotApplicable) as error:
        raise TaskError(f"setting {setting.name!r}: {error}") from error
    if pairs.rest and isinstance(columns[0].learned, Steering):  # to the first token alone, which is another answer
        raise (
            NotApplicable(ONE_TOKEN)
            if setting.name == MAIN_SETTING
            else TaskError(f"setting {setting.name!r}: {ONE_TOKEN}")
        )
    moved = _moved(stream, columns, setting, own=own.source, other=data.source)
    if isinstance(columns[0].learned, AbstractReading):
        move = partial(moved_place, positions=moved)
        states = bench.states.of(cohort, pairs, setting.name, micro_batch=_EVALUATION_BATCH, moved=move)
        read = count_read(states, columns, moved=moved)
        return Evaluated(data=data, pairs=pairs, counts=read, n_dropped=n_dropped)
    places = [place for column in columns for place in column.places(moved)]
    test_data = canonical_json([data_of(cohort), setting.task, setting.split, setting.keep])
    engine = bench.engines.engine(stream.engine, places, pairs)
    pairs = pairs.by_length()
    batch = to_device(pairs, bench.language_model.device)
    counts = count_right(
        engine,
        columns,
        batch,
        micro_batch=_EVALUATION_BATCH,
        moved=moved,
        controls=controls,
        full_swaps=bench.full_swaps.setdefault(test_data, {}),
    )
    return Evaluated(data=data, pairs=pairs, counts=counts, n_dropped=n_dropped)


def _moved(
    stream: Stream, columns: Sequence[Column], setting: Setting, *, own: AbstractPairSource, other: AbstractPairSource
) -> dict[int, int]:
    """Where the positions of the columns and of the method lie in the setting's prompts. Raises: TaskError."""
    layouts = own.layout(stream.hypothesis), other.layout(stream.hypothesis)
    positions = sorted(set().union(*(column.positions for column in columns)))
    moved = moved_positions(*layouts, positions, setting.name)
    read_at = settings_object(stream.method).positions
    return moved_positions(*layouts, read_at, setting.name, from_beginning=True) | moved


def save_alignments(bench: Workbench, cohort: Cohort, columns: Sequence[Column]) -> None:
    """Save what each cell learned as `options.save_alignments` asks. Raises: OSError."""
    job, stream = bench.job, cohort.stream
    if job.options.save_alignments == "none":
        return
    source = bench.task_data(stream.task, stream.hypothesis, int(stream.data["n_test"])).source
    layout = source.layout(stream.hypothesis)
    save_columns(
        job.sweep_folder.alignments,
        cohort,
        columns,
        whole=job.options.save_alignments == "full",
        variables=source.variables[stream.hypothesis],
        indices={
            point.position for cell in cohort.cells for point in cell.place.points if layout.is_index(point.position)
        },
    )


def halves(cohort: Cohort) -> list[Cohort]:
    """The cohort in two, whole positions kept together where there are several."""
    cells = sorted(cohort.cells, key=lambda cell: cell.place.rank)
    middle = len(cells) // 2
    return [replace(cohort, cells=tuple(part)) for part in (cells[:middle], cells[middle:]) if part]
