"""SweepSpec -> cells: the grid expanded exactly, against the model, its tokenizer and the task.

Cells that share a data stream (task, hypothesis, seed, method) are one `Strand`, from which cohorts are cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import SpecError
from orchestrator.grid.applicable import by_applicability
from orchestrator.grid.methods import Step, methods_of, placed
from orchestrator.grid.model import GridModel, ReadModel, read_models
from orchestrator.grid.places import places_of, positions_of
from orchestrator.spec.filters import CellFilter
from orchestrator.spec.schema import Experiment, SweepSpec
from workers.data.layout import PromptLayout, moved_positions
from workers.data.model_info import ModelError
from workers.data.source import AbstractPairSource
from workers.data.sources import open_source
from workers.files.cell_identity import own_columns, shared_columns
from workers.files.folder import SweepFolder
from workers.files.job import MAIN_SETTING, Cell, JobCell, Setting, Stream, canonical_json
from workers.files.place import AnyPlace, PlaceSet
from workers.methods.settings import method_label, settings_object
from workers.tasks import TaskError
from workers.tasks.user_file import scratch_folder

_SIZES: Final = {"n_train": "train", "n_eval": "validation", "n_test": "test"}
_ALL: Final = "a hit needs all of them, as docs/data.md explains"
_UNGATED: Final = "the model's task accuracy is measured where they are given, and the gate lets all pass where none is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Strand:
    """The cells of one experiment, in the model of this name, that share a data stream. `n_tokens` (of the longest),
    `mean_tokens` (None: all are as long) and `n_prefix` describe its prompts; `tail_tokens` has the mean number of
    tokens from a position to the prompt's end, where the position is no token's index.

    `is_trained`: what the cells learned is saved, and they are only to be evaluated. `inapplicable`: why the method has
    no meaning for the cells, so that there is nothing to run. `after`: the label of the method at whose `best` places
    the cells are run, and the others left out; empty where they are run everywhere.
    """

    experiment: str
    stream: Stream
    variables: tuple[str, ...]
    n_tokens: int
    n_prefix: int
    cells: tuple[JobCell, ...]
    mean_tokens: float | None = None
    tail_tokens: Mapping[int, float] = field(default_factory=dict)
    is_trained: bool = False
    inapplicable: str = ""
    after: str = ""
    best: int = 0
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Every cell of a sweep, and the models in the order of the spec, whose sizes decide what cells cost.

    Where the grid comes from a spec: `sources` and `autoencoders`, whose files the sweep carries, and `notes` for
    people.
    """

    models: tuple[GridModel, ...]
    strands: tuple[Strand, ...]
    sources: tuple[AbstractPairSource, ...] = field(default=(), compare=False, repr=False)
    autoencoders: Mapping[str, Path] = field(default_factory=dict, compare=False, repr=False)  # by hash
    notes: tuple[str, ...] = field(default=(), compare=False)  # what a plan has to say of the model and the data

    @property
    def n_cells(self) -> int:
        """Cells in all strands."""
        return sum(len(strand.cells) for strand in self.strands)

    def model_of(self, strand: Strand) -> GridModel:
        """The model in which the strand's cells intervene."""
        return next(model for model in self.models if model.name == strand.model)

    def cells(self) -> Iterator[tuple[Strand, JobCell]]:
        """Each cell with its strand."""
        for strand in self.strands:
            for cell in strand.cells:
                yield strand, cell


def cell_fields(strand: Strand, cell: JobCell) -> dict[str, Any]:
    """What filters choose cells by."""
    shared = shared_columns(strand.experiment, strand.stream, method=method_label(strand.stream.method))
    return {"model": strand.model} | shared | own_columns(cell)


def matching_keys(grid: Grid, where: Iterable[str]) -> frozenset[str] | None:
    """The keys of the planned cells that match `where` (`KEY=VALUE`); None, for all, without a condition.

    Raises: SpecError (a condition is wrong, or names a value that no cell has).
    """
    chosen = CellFilter.from_options(where)
    if not chosen.conditions:
        return None
    fields = {cell.key: cell_fields(strand, cell) for strand, cell in grid.cells()}
    chosen.check_values(fields.values())
    return frozenset(key for key, values in fields.items() if chosen.matches(values))


def wanted_settings(settings: Sequence[Setting], experiment: str) -> list[str]:
    """The settings for which a cell of `experiment` yields a row, the main one first."""
    return [MAIN_SETTING] + [
        setting.name for setting in settings if not setting.experiments or experiment in setting.experiments
    ]


def expand(spec: SweepSpec, folder: SweepFolder | None = None) -> Grid:
    """The grid of a spec: no cell twice, in the order of models, experiments, methods, seeds, sites, layers, positions,
    units.

    `folder`: the sweep's own, which has what an earlier plan made of the spec's files.
    Raises: SpecError naming file, key, value and what is expected.
    """
    models = read_models(spec)
    methods, autoencoders = methods_of(spec, folder)
    strands: list[Strand] = []
    sources: list[AbstractPairSource] = []
    notes: list[str] = []
    for read in models:
        with _of_model(read, models):
            prompts = PromptReader(spec, read, folder)
            for index in range(len(spec.grid.experiments)):
                strands += _strands(spec, index, read, prompts, methods)
            _check_settings(spec, prompts, methods)
        sources += prompts.sources
        notes += [*read.notes, *prompts.notes]
    strands = _without_excluded(spec, strands)
    _check_all_different(spec, strands)
    return Grid(
        models=tuple(read.planned() for read in models),
        strands=tuple(strands),
        sources=tuple(sources),
        autoencoders=autoencoders,
        notes=tuple(dict.fromkeys(notes)),
    )


@contextmanager
def _of_model(read: ReadModel, models: Sequence[ReadModel]) -> Iterator[None]:
    """Inside, what is wrong with a spec names the model as well, where there are several."""
    try:
        yield
    except SpecError as error:
        if len(models) == 1 or read.choice.key in str(error):
            raise
        raise SpecError(f"{error} (for the model {read.choice.name!r}, {read.choice.key})") from error


def _strands(
    spec: SweepSpec, index: int, read: ReadModel, prompts: PromptReader, methods: Sequence[Step]
) -> Iterator[Strand]:
    """The strands of one model and experiment."""
    experiment, model = spec.grid.experiments[index], read.info
    source = prompts.read(f"grid.experiments[{index}].task", experiment.task)
    hypothesis = _hypothesis(spec, index, source)
    layout = prompts.layout(f"grid.experiments[{index}]", experiment.task, hypothesis)
    data, science = prompts.data_of(source, hypothesis), source.science()
    places = places_of(spec, model, layout)
    positions = {point.position for place in places for point in place.points}
    n_answer = layout.n_answer_tokens - 1  # tokens that follow the prompt
    for step in methods:
        parts = by_applicability(source, hypothesis, step.method, model, places)
        for seed in step.seeds:
            stream = Stream(
                model=read.science(),
                task=science,
                hypothesis=hypothesis,
                seed=seed,
                data=data,
                method=step.method,
                engine=spec.engine,
            )
            key_of = cell_keys(stream)
            for why, chosen in parts.items():
                yield Strand(
                    experiment=experiment.name,
                    stream=stream,
                    variables=source.variables[hypothesis],
                    inapplicable=why,
                    after=step.after,
                    best=step.best,
                    model=read.choice.name,
                    n_tokens=layout.n_tokens + n_answer,
                    mean_tokens=layout.mean_tokens + n_answer,
                    n_prefix=layout.n_prefix,
                    tail_tokens={
                        at: layout.tail_tokens[at] + n_answer for at in sorted(positions) if not layout.is_index(at)
                    },
                    cells=tuple(
                        JobCell(key=key_of(place), place=place, token=_tokens(place, layout)) for place in chosen
                    ),
                )


def _tokens(place: AnyPlace, layout: PromptLayout) -> str:
    """The token at the place's position; of several, in their order."""
    return " + ".join(layout.tokens[at] for at in sorted({point.position for point in place.points}))


def cell_keys(stream: Stream) -> Callable[[AnyPlace], str]:
    """`Cell(stream, place).key()` as a function of the place. The text that its stream decides is made once."""
    fixed = {name: f'"{name}":{canonical_json(value)}'.replace("%", "%%") for name, value in stream.science().items()}
    templates: dict[tuple[str, ...], str] = {}  # by the names that a place adds

    def template(science: Mapping[str, int | str]) -> str:
        slots = {name: f'"{name}":' + ('"%s"' if isinstance(value, str) else "%d") for name, value in science.items()}
        return "{" + ",".join(text for _, text in sorted((fixed | slots).items())) + "}"

    def key(place: AnyPlace) -> str:
        if isinstance(place, PlaceSet):
            return Cell(stream=stream, place=place).key()
        science = place.science()
        names = tuple(science)
        if names not in templates:
            templates[names] = template(science)
        return hashlib.sha256((templates[names] % tuple(science.values())).encode("ascii")).hexdigest()

    return key


class PromptReader:
    """The spec's task and its variations in the tokens of one model, each read once."""

    def __init__(self, spec: SweepSpec, read: ReadModel, folder: SweepFolder | None = None) -> None:
        self._spec, self._model, self._folder = spec, read, folder
        self._sources: dict[str, AbstractPairSource] = {}
        self._layouts: dict[tuple[str, str], PromptLayout] = {}
        self._notes: list[str] = []
        self.read("task", {})

    def read(self, key: str, overrides: Mapping[str, Any]) -> AbstractPairSource:
        """Where the pairs of the task with `overrides` come from. Raises: SpecError at `key`."""
        raw = self._spec.task | dict(overrides)
        try:
            text = canonical_json(raw)
            if text not in self._sources:
                with _as_a_job_would(raw):
                    self._sources[text] = open_source(raw, self._model.tokenizer, self._folder)
        except ModelError as error:  # its tokenizer gives ids that it does not know
            raise self._model.choice.problem(error) from error
        except (TaskError, TypeError) as error:
            raise placed(self._spec, key, error) from error
        return self._sources[text]

    @property
    def sources(self) -> tuple[AbstractPairSource, ...]:
        """All that were read."""
        return tuple(self._sources.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the data of the grid."""
        return tuple(dict.fromkeys(self._notes))

    def data_of(self, source: AbstractPairSource, hypothesis: str) -> dict[str, Any]:
        """The numbers of pairs that the spec asks for, or what there is where that is less. Raises: SpecError."""
        data, available = self._spec.data.science(), source.n_available(hypothesis)
        for key, split in _SIZES.items():
            there = available.get(split, data[key])
            if there < data[key]:
                note = f"{hypothesis}: {key} is {there:,}, all that the file has; {data[key]:,} were asked for"
                self._notes.append(note)
                data[key] = there
        if not source.knows_answers(hypothesis):
            if "keep" in data:
                right = f"each row of hypothesis {hypothesis!r} needs base_answer and source_answer for it"
                raise self._spec.error("data.keep", data["keep"], right)
            self._notes.append(f"{hypothesis}: rows lack base_answer or source_answer; {_UNGATED}")
        return data

    def layout(
        self, key: str, overrides: Mapping[str, Any], hypothesis: str, splits: Sequence[str] = tuple(_SIZES.values())
    ) -> PromptLayout:
        """Where the tokens of the hypothesis's prompts lie in the task with `overrides`, which has pairs of `splits`.

        Raises: SpecError at `key`.
        """
        source = self.read(key, overrides)
        if hypothesis not in source.variables:
            right = f"task {source.name!r} has no hypothesis {hypothesis!r}, only {', '.join(source.variables)}"
            raise self._spec.error(key, dict(overrides), right)
        known = (canonical_json(self._spec.task | dict(overrides)), hypothesis)
        if known not in self._layouts:
            try:
                with _as_a_job_would(self._spec.task):
                    layout = source.layout(hypothesis)
                    source.check(hypothesis, splits)
            except TaskError as error:
                raise placed(self._spec, key, error) from error
            self._layouts[known] = layout
            if layout.n_answer_tokens > 1:
                pieces = " + ".join(map(repr, layout.longest_answer))
                self._notes.append(f"{hypothesis}: answers of up to {layout.n_answer_tokens} tokens ({pieces}); {_ALL}")
        return self._layouts[known]


def _as_a_job_would(task: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Inside, a user's task does not find what lies in the folder where the plan is made: jobs run elsewhere."""
    return chdir(scratch_folder()) if "file" in task else nullcontext()


def _hypothesis(spec: SweepSpec, index: int, source: AbstractPairSource) -> str:
    experiment: Experiment = spec.grid.experiments[index]
    name = experiment.hypothesis or experiment.name
    if name not in source.variables:
        key = f"grid.experiments[{index}]" + (".hypothesis" if experiment.hypothesis else "")
        raise spec.error(key, name, f"task {source.name!r} has the hypotheses {', '.join(source.variables)}")
    return name


def _check_settings(spec: SweepSpec, prompts: PromptReader, methods: Sequence[Step]) -> None:
    """Every further setting makes pairs that the model can read, for each experiment that it is meant for, and its
    prompts have the grid's positions and those that methods name."""
    read_at = [position for step in methods for position in settings_object(step.method).positions]
    for index, setting in enumerate(spec.settings):
        key = f"settings[{index}].task"
        for experiment in spec.grid.experiments:
            if not setting.experiments or experiment.name in setting.experiments:
                hypothesis = experiment.hypothesis or experiment.name
                other = prompts.layout(key, experiment.task | setting.task, hypothesis, ["test"])
                own = prompts.layout("task", experiment.task, hypothesis)
                try:
                    moved_positions(own, other, positions_of(spec, own), setting.name)
                    moved_positions(own, other, read_at, setting.name, from_beginning=True)
                except TaskError as error:
                    raise placed(spec, key, error) from error


def _without_excluded(spec: SweepSpec, strands: Iterable[Strand]) -> list[Strand]:
    filters = [CellFilter.from_mapping(entry) for entry in spec.grid.exclude]
    if not filters:
        return list(strands)
    used: set[int] = set()
    kept: list[Strand] = []
    for strand in strands:
        cells = []
        for cell in strand.cells:
            fields = cell_fields(strand, cell)
            hits = {index for index, entry in enumerate(filters) if entry.matches(fields)}
            used |= hits
            if not hits:
                cells.append(cell)
        if cells:
            kept.append(replace(strand, cells=tuple(cells)))
    for index, entry in enumerate(spec.grid.exclude):
        if index not in used:
            right = "it matches no cell of the grid; correct it or take it out"
            if "model" in entry:
                right += f"; the models are {', '.join(choice.name for choice in spec.models())}"
            raise spec.error(f"grid.exclude[{index}]", entry, right)
    if not kept:
        raise spec.error("grid.exclude", list(spec.grid.exclude), "it leaves no cell; exclude less")
    return kept


def _check_all_different(spec: SweepSpec, strands: Iterable[Strand]) -> None:
    owners: dict[str, str] = {}
    for strand in strands:
        first = owners.setdefault(strand.cells[0].key, strand.experiment)
        if first != strand.experiment:
            raise spec.error(
                "grid.experiments", strand.experiment, f"it has the same cells as {first!r}; keep one of the two"
            )
