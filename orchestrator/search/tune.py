"""Search a method's settings over a few cells, on Ray: trials stop early where they promise little (ASHA on the IIA).

    space = {"rotation_lr": Range(low=1e-4, high=1e-2, log=True), "boundary_penalty": (0.1, 1.0)}
    where = ["experiment=left_boundary", "layer=2", "position=80..81"]
    tuned = tune("examples/demo.yaml", space, where=where, overrides=["ray.address=http://127.0.0.1:8265"])
    tuned.best.settings, tuned.frame()
    tuned.write_spec(Path("tuned.yaml"))

Trials are compared on the validation pairs of the best of the cells; the test pairs are for the sweep that follows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cluster.ray.options import parse_options
from cluster.ray.search import Range, Search, Trial, read_trials, start_search, wait_for_search
from orchestrator import folder as sweep_folder
from orchestrator.backends.opening import options_of
from orchestrator.errors import SpecError
from orchestrator.grid.expand import Grid, cell_fields
from orchestrator.grid.model import check_runnable, model_folder
from orchestrator.plan.plan import restricted
from orchestrator.search.trial import JOB_FILE, N_EVALUATIONS, trial_job
from orchestrator.spec.filters import CellFilter
from orchestrator.spec.schema import SweepSpec
from orchestrator.spec.text import to_yaml
from orchestrator.sweep import SWEEPS, Sweep
from workers.files.folder import SweepFolder, replace_file, take_over_files
from workers.files.job import Cohort, Job
from workers.methods.base_settings import MethodError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Range", "Tuned", "tune"]

METRIC: Final = "validation_iia"
MAX_CELLS: Final = 64


@dataclass(frozen=True, slots=True)
class Tuned:
    """A search that has ended."""

    spec: SweepSpec
    folder: Path
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the highest IIA of those that came furthest. Raises: SpecError (none was ever measured)."""
        furthest = max((trial.rung for trial in self.trials), default=0)
        if not furthest:
            raise SpecError(f"{self.folder}: no trial was ever measured; the first says: {_error(self.trials)}")
        return max((trial for trial in self.trials if trial.rung == furthest), key=lambda trial: trial.values[furthest])

    def frame(self) -> pd.DataFrame:
        """One line a trial: its settings, its last IIA, the rung that it reached (of `N_EVALUATIONS`), its state."""
        import pandas as pd

        rows = [
            {**trial.settings, "iia": trial.value, "rung": trial.rung} | {"state": trial.state, "trial": trial.name}
            for trial in self.trials
        ]
        return pd.DataFrame(rows)

    def write_spec(self, path: Path) -> None:
        """Write the sweep's spec with the best trial's settings of the method. Raises: OSError."""
        raw = self.spec.model_dump(mode="json", exclude_none=True)
        raw["method"] = raw.get("method", {}) | dict(self.best.settings)
        replace_file(path, to_yaml(raw))


def tune(
    source: str | Path,
    space: Mapping[str, Range | tuple[Any, ...]],
    *,
    where: Iterable[str] = (),
    n_trials: int = 16,
    time_limit_s: float | None = None,
    seed: int = 0,
    overrides: Iterable[str] = (),
    sweeps: Path = SWEEPS,
) -> Tuned:
    """The result of `n_trials` trials of the method's settings in `space`, on those cells of the sweep `source` that
    match `where` (`KEY=VALUE`), on the cluster of its `ray:` block. Its files lie in the folder `NAME-search-N` beside
    the sweeps'. After `time_limit_s` it is what was found until then: trials wait for GPUs that others hold.

    Raises: SpecError (no cell matches, too many do, a setting is unknown or out of range), ClusterUsageError,
    ClusterUnavailable, ClusterError (the search failed on Ray).
    """
    sweep = Sweep.load(source, overrides=overrides, sweeps=sweeps)
    if sweep.spec.grid.methods:
        raise SpecError(f"{sweep.spec.source}: key `grid.methods`: a search is of one method; give `method` instead")
    if len(sweep.grid.models) > 1:
        raise SpecError(f"{sweep.spec.source}: key `grid.models`: a search is of one model; give `model` instead")
    check_runnable(sweep.spec, sweep.grid.models, [model.name for model in sweep.grid.models])
    address, options = parse_options(options_of(sweep.spec, "ray"))
    grid = _chosen(sweep.grid, where)
    folder = _new_folder(sweeps.absolute(), sweep.spec.name)
    job = _job(sweep.spec, folder, grid)
    for key, values in space.items():  # the ends stand for all between
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            _check(job, key, value)
    with sweep_folder.written(folder, sweep.spec, grid):
        take_over_files(folder, sweep.folder)
        replace_file(folder.root / JOB_FILE, job.to_json())
        command = (sys.executable, "-P", "-m", "orchestrator.search.trial")
        search = Search(
            command=command,
            space=space,
            metric=METRIC,
            n_trials=n_trials,
            n_rungs=N_EVALUATIONS,
            n_gpus=job.n_gpus,
            cpus_per_trial=options.cpus_per_job,
            time_limit_s=time_limit_s,
            seed=seed,
        )
        name = start_search(address, folder.root, search)
    wait_for_search(address, name)
    return Tuned(sweep.spec, folder.root, read_trials(folder.root))


def _chosen(grid: Grid, where: Iterable[str]) -> Grid:
    chosen = CellFilter.from_options(where)
    keys = {cell.key for strand, cell in grid.cells() if chosen.matches(cell_fields(strand, cell))}
    if not 0 < len(keys) <= MAX_CELLS:
        raise SpecError(
            f"where: {len(keys)} cells match; expected 1 to {MAX_CELLS}, because each trial of a search runs them all"
        )
    return replace(grid, strands=tuple(restricted(grid, keys)))


def _new_folder(sweeps: Path, name: str) -> SweepFolder:
    taken = {path.name for path in sweeps.glob(f"{name}-search-*")}
    number = next(n for n in range(1, len(taken) + 2) if f"{name}-search-{n}" not in taken)
    return SweepFolder(sweeps / f"{name}-search-{number}")


def _job(spec: SweepSpec, folder: SweepFolder, grid: Grid) -> Job:
    (model,) = spec.models()
    return Job(
        job="trial",
        sweep=spec.name,
        folder=str(folder.root),
        label=f"a trial ({grid.n_cells} cells)",
        model_path=str(model_folder(model)),
        model_revision=model.revision,
        gate_task_accuracy=spec.gate.task_accuracy,
        cohorts=tuple(
            Cohort(experiment=strand.experiment, stream=strand.stream, cells=strand.cells) for strand in grid.strands
        ),
        options=spec.run.options(),
        n_gpus=spec.jobs.gpus,
    )


def _check(job: Job, key: str, value: Any) -> None:
    try:
        trial_job(job, {key: value}, Path(job.folder))
    except MethodError as error:
        raise SpecError(f"space: {error}") from error
    except KeyError:
        name = job.cohorts[0].stream.method["name"]
        raise SpecError(f"space: method {name!r} learns nothing by steps; there is nothing to search") from None


def _error(trials: tuple[Trial, ...]) -> str:
    return next((trial.error.strip().splitlines()[-1] for trial in trials if trial.error), "nothing")
