"""sweep.yaml -> SweepSpec: the one place where a user's text is parsed.

What can be said without the model is checked here; `orchestrator.grid.expand` checks the rest against the model, its
tokenizer and the task. Every problem reads `FILE: key `a.b`: got VALUE; expected ...`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    create_model,
    model_validator,
)

from cluster.registry import BACKENDS, spec_key
from orchestrator.errors import SpecError, wrong_value
from orchestrator.spec.filters import CellFilter, parse_range
from orchestrator.spec.models import (
    ModelChoice,
    ModelEntries,
    ModelSection,
    Section,
    absolute,
    choices_of,
    resolved_models,
    with_shared_model,
)
from orchestrator.spec.places import Name, Places, PlaceSection, listed
from orchestrator.spec.problems import describe
from orchestrator.spec.text import apply_overrides, read_mapping, to_yaml
from values.numbers import (
    Confidence,
    Count,
    CountOrNone,
    GpuHours,
    Gpus,
    Hours,
    Nodes,
    Seconds,
    Seed,
    Share,
    Threads,
    unbounded,
)
from values.problems import dotted
from workers.data.sites import SITES
from workers.files.job import MAIN_SETTING, VALIDATION_SETTING, RunOptions, Setting
from workers.files.place import BLOCK_OUTPUT


def _named(value: Any) -> Any:
    """A bare name is a mapping with that name."""
    return {"name": value} if isinstance(value, str) else value


def _site(value: Any) -> Any:
    """A site, or one with its units that are cells: `block_output`, `{head_output: all}`, `{query: [0, 3..5]}`."""
    named = {value: ()} if isinstance(value, str) else value
    if not isinstance(named, dict) or len(named) != 1:
        raise ValueError("expected a site, or one with its units: `block_output`, `{head_output: all}`")
    ((name, units),) = named.items()
    if name not in SITES:
        close = difflib.get_close_matches(str(name), SITES, n=1)
        instead = f"did you mean `{close[0]}`?" if close else f"expected one of {', '.join(SITES)}"
        raise ValueError(f"no site {name!r}; {instead}")
    unit = SITES[name].unit_name
    for item in listed(units):
        if isinstance(item, bool) or not (isinstance(item, int) or item == "all" or parse_range(str(item))):
            raise ValueError(f"unit {item!r}; expected an index, a range such as 3..5 or `all`")
        if item != "all" and not unit:
            raise ValueError(f"`{name}` has no units; expected `{name}` alone")
    if unit and not SITES[name].all_is_one and not listed(units):
        raise ValueError(f"`{name}` has units; expected `{{{name}: all}}`, or some {unit}s: `{{{name}: [0, 2..3]}}`")
    return value


Sites = Annotated[tuple[Annotated[Any, BeforeValidator(_site)], ...], BeforeValidator(listed), Field(min_length=1)]

Seeds = Annotated[tuple[Seed, ...], BeforeValidator(listed), Field(min_length=1)]


class Experiment(Section):
    """A hypothesis to align, on the sweep's task or a variation of it."""

    name: Name
    hypothesis: str = ""  # the experiment's name where it is not given
    task: dict[str, Any] = Field(default_factory=dict)
    baseline: str = ""  # the experiment whose map the report correlates this one's with; the first where not given


class Method(BaseModel):
    """A method's name, and the settings that differ from its defaults."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = "boundless_das"

    def settings(self) -> dict[str, Any]:
        """The settings given."""
        return dict(self.model_extra or {})


class CoarseSection(Section):
    """Coarse to fine: begin with every n-th layer and position, then add places next to one that may be the best.

    `confidence`: of all intervals of a map together.
    """

    layers: Count = 2
    positions: Count = 2
    confidence: Confidence = 0.95


class GridSection(Section):
    """The axes; every combination that `exclude` does not name is a cell."""

    experiments: Annotated[
        tuple[Annotated[Experiment, BeforeValidator(_named)], ...], BeforeValidator(listed), Field(min_length=1)
    ]
    layers: Places
    positions: Places
    sites: Sites = (BLOCK_OUTPUT,)
    places: Annotated[tuple[PlaceSection, ...], BeforeValidator(listed)] = ()
    seeds: Seeds = (42,)
    models: ModelEntries = ()
    untrained: bool = False  # adds a model of the same shape with initial weights
    methods: Annotated[tuple[Annotated[Method, BeforeValidator(_named)], ...], BeforeValidator(listed)] = ()
    exclude: tuple[dict[str, Any], ...] = ()
    coarse: CoarseSection | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [experiment.name for experiment in self.experiments]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"experiments: {twice[0]!r} is there twice; give each experiment a name of its own")
        for index, experiment in enumerate(self.experiments):
            if experiment.baseline and experiment.baseline not in names:
                right = f"no experiment {experiment.baseline!r}; expected one of {', '.join(names)}"
                raise ValueError(f"experiments[{index}].baseline: {right}")
        sites = [name for name, _ in self.named_sites()]
        for index, site in enumerate(sites):
            if site in sites[:index]:
                raise ValueError(f"sites[{index}]: `{site}` is there twice; give all its units in one entry")
        sets = [place.name for place in self.places]
        for index, name in enumerate(sets):
            if name in sets[:index]:
                raise ValueError(f"places[{index}].name: {name!r} is there twice; give each set a name of its own")
        for index, entry in enumerate(self.exclude):
            try:
                CellFilter.from_mapping(entry)
            except ValueError as error:
                raise ValueError(f"exclude[{index}]: {error}") from None
        return self

    def named_sites(self) -> tuple[tuple[str, tuple[int | str, ...]], ...]:
        """Each site with its units as the spec gives them; none where it gives the site alone."""
        pairs = [next(iter(site.items())) if isinstance(site, dict) else (site, ()) for site in self.sites]
        return tuple((name, tuple(listed(units))) for name, units in pairs)


class DataSection(Section):
    """Numbers of pairs; the paper's by default."""

    n_train: Count = 20_000
    n_eval: Count = 200
    n_test: Count = 1_000
    keep: Literal["all", "correct"] = "all"  # `correct`: pairs whose base and source the model answers right

    def science(self) -> dict[str, Any]:
        """As a cell key has it: what earlier versions did not know enters where it is given."""
        return self.model_dump(exclude={"keep"} if self.keep == "all" else None)


class GateSection(Section):
    """Below this task accuracy the cells are recorded as skipped, not run."""

    task_accuracy: Share = 0.8


class SettingSection(Section):
    """A data distribution on which the learned alignments are evaluated besides the one they were trained on."""

    name: Name
    task: dict[str, Any] = Field(default_factory=dict)
    keep: Literal["all", "correct", "incorrect"] = "all"
    experiments: tuple[str, ...] = ()


class ThenSection(Section):
    """A further method, at the `best` places of each experiment of an earlier one. `after` is that one's label, and may
    be left out where there is only one. `seeds`: the grid's where none are given."""

    method: Annotated[Method, BeforeValidator(_named)]
    after: str = ""
    best: Count = 1
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(listed)] = ()


class JobsSection(Section):
    """How cells are packed into jobs, and when a job that nobody sees counts as lost."""

    target_h: Hours = 1.5
    gpus: Gpus = 1
    lost_after_s: Seconds = 300.0
    max_gpu_hours: GpuHours | None = None  # over all backends and submissions; None: as many as it takes


class RunSection(Section):
    """How a worker runs a job; none of it changes a result. The same keys as `workers.files.job.RunOptions`."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads = 1
    micro_batch: CountOrNone = 0
    max_cohort: CountOrNone = 0
    checkpoint_every_s: Seconds = 120.0
    heartbeat_s: Seconds = 2.0
    save_alignments: Literal["none", "subspace", "full"] = "subspace"

    def options(self) -> RunOptions:
        """As a job file has it."""
        return RunOptions(**self.model_dump())


class ClusterSection(Section):
    """The machines to plan for."""

    nodes: Nodes = 1
    gpus_per_node: Gpus = 1
    gpu: str = "a100"


BACKEND_KEYS: Final = tuple(map(spec_key, BACKENDS))  # each holds one backend's options, which the backend checks
if TYPE_CHECKING:
    _BackendSections = Section
else:
    _BackendSections = create_model("_BackendSections", __base__=Section, **dict.fromkeys(BACKEND_KEYS, (dict, {})))


class SweepSpec(_BackendSections):
    """A sweep as its user wrote it, defaults filled in, paths absolute."""

    name: Name
    model: Annotated[ModelSection, BeforeValidator(lambda value: {"path": value} if isinstance(value, str) else value)]
    task: Annotated[dict[str, Any], BeforeValidator(_named)]
    grid: GridSection
    method: Annotated[Method, BeforeValidator(_named)] | None = None
    data: DataSection = DataSection()
    engine: Literal["suffix", "reference"] = "suffix"
    gate: GateSection = GateSection()
    settings: tuple[SettingSection, ...] = ()
    then: tuple[ThenSection, ...] = ()
    jobs: JobsSection = JobsSection()
    run: RunSection = RunSection()
    cluster: ClusterSection | None = None
    notify: str = ""  # a shell command, run at the end, at a failure and when the budget is spent

    _source: str = PrivateAttr(default="sweep.yaml")

    @model_validator(mode="before")
    @classmethod
    def _share_model(cls, raw: Any) -> Any:
        return with_shared_model(raw)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.grid.untrained and self.grid.models:
            raise ValueError(
                "grid.untrained: with grid.models give an entry of its own: `{path: ..., untrained: true}`"
            )
        if self.method is not None and self.grid.methods:
            raise ValueError("method: both this and grid.methods are given; give one of the two")
        variations = [(f"grid.experiments[{at}]", one.task) for at, one in enumerate(self.grid.experiments)]
        variations += [(f"settings[{at}]", one.task) for at, one in enumerate(self.settings)]
        for key, task in variations:
            if "file" in task:
                raise ValueError(f"{key}.task.file: a variation keeps the sweep's file; give `file` in `task` alone")
        known = {experiment.name for experiment in self.grid.experiments}
        names = [setting.name for setting in self.settings]
        for index, setting in enumerate(self.settings):
            if setting.name == VALIDATION_SETTING and self.then:
                raise ValueError(
                    f"settings[{index}].name: {setting.name!r} is the pairs by which `then` chooses; give another name"
                )
            if setting.name == MAIN_SETTING or names.count(setting.name) > 1:
                raise ValueError(f"settings[{index}].name: {setting.name!r} is taken; give another name")
            for name in setting.experiments:
                if name not in known:
                    one_of = ", ".join(sorted(known))
                    raise ValueError(f"settings[{index}].experiments: no experiment {name!r}; expected one of {one_of}")
        return self

    @property
    def source(self) -> str:
        """The file, as messages name it."""
        return self._source

    def models(self) -> tuple[ModelChoice, ...]:
        """Each model with the key at which the spec gives it, in the order of the list."""
        return choices_of(self.model, self.grid.models, self.source)

    def pinned_to(self, revisions: Sequence[str]) -> Self:
        """The spec whose models are at these revisions, one for each of `models()`."""
        if not self.grid.models:
            return self.model_copy(update={"model": self.model.model_copy(update={"revision": revisions[0]})})
        entries = zip(self.grid.models, revisions, strict=True)
        models = tuple(entry.model_copy(update={"revision": revision}) for entry, revision in entries)
        return self.model_copy(update={"grid": self.grid.model_copy(update={"models": models})})

    def methods(self) -> tuple[tuple[str, Method], ...]:
        """Each method with the key at which the spec gives it."""
        if self.grid.methods:
            return tuple((f"grid.methods[{index}]", method) for index, method in enumerate(self.grid.methods))
        return (("method", self.method or Method()),)

    def evaluation_settings(self) -> tuple[Setting, ...]:
        """The further settings as a job file has them; the validation pairs first, where a chain chooses by them."""
        validation = [Setting(name=VALIDATION_SETTING, split="validation")] if self.then else []
        return (*validation, *(Setting(**section.model_dump()) for section in self.settings))

    def error(self, key: str, got: Any, right: str) -> SpecError:
        """The error of a bad value of this spec."""
        return SpecError(wrong_value(self.source, key, got, right))

    def to_yaml(self) -> str:
        """The resolved spec's text: every default written out, the checkpoint's path absolute."""
        values = self.model_dump(mode="json", exclude_none=True)
        backends = {key: values.pop(key) for key in BACKEND_KEYS}
        return to_yaml(values | backends)


def load_spec(path: Path, overrides: Iterable[str] = ()) -> SweepSpec:
    """The spec in the file at `path`, with `a.b=VALUE` overrides. Raises: SpecError listing every problem."""
    return parse_spec(apply_overrides(read_mapping(path), overrides), source=str(path), folder=path.parent)


def parse_spec(raw: Mapping[str, Any], *, source: str, folder: Path) -> SweepSpec:
    """The spec of plain values; relative paths are taken from `folder`. Raises: SpecError listing every problem."""
    problems = [wrong_value(source, dotted(key), got, f"expected {right}") for key, got, right in unbounded(raw)]
    if problems:
        raise SpecError("\n".join(problems))
    try:
        spec = SweepSpec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(describe(error, SweepSpec, source)) from None
    model, models = resolved_models(
        spec.model,
        spec.grid.models,
        untrained=spec.grid.untrained,
        keep=spec.data.keep,
        source=source,
        folder=folder,
    )
    update = {"model": model, "task": _with_absolute_file(spec.task, folder)}
    if spec.method is not None:
        update["method"] = _with_absolute_path(spec.method, folder)
    update["then"] = tuple(
        section.model_copy(update={"method": _with_absolute_path(section.method, folder)}) for section in spec.then
    )
    methods = tuple(_with_absolute_path(method, folder) for method in spec.grid.methods)
    update["grid"] = spec.grid.model_copy(update={"methods": methods, "models": models, "untrained": False})
    resolved = spec.model_copy(update=update)
    resolved._source = source
    return resolved


def _with_absolute_path(method: Method, folder: Path) -> Method:
    """The method, whose `path` (or each of a list) is absolute."""
    path = method.settings().get("path")
    if isinstance(path, str) and path:
        return method.model_copy(update={"path": absolute(path, folder)})
    if isinstance(path, list):
        paths = [absolute(one, folder) if isinstance(one, str) and one else one for one in path]
        return method.model_copy(update={"path": paths})
    return method


def _with_absolute_file(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    file = task.get("file")
    return task | {"file": absolute(file, folder)} if isinstance(file, str) else task
