"""class Sweep: the whole life of a sweep from Python; each command of the command line is one call into it.

from orchestrator import Sweep
sweep = Sweep.load("examples/demo.yaml")
sweep.plan().totals.gpu_hours
sweep.run()                     # or .submit(on="slurm"), and later .status(), .resume()
sweep.results()                 # a pandas DataFrame
sweep.report()
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.backend import Control, Finding
from orchestrator import folder as sweep_folder
from orchestrator.backends.opening import open_configured
from orchestrator.backends.submissions import read_submissions
from orchestrator.errors import BudgetReached, SweepBusy
from orchestrator.export.mib import Exported, MibNames, export_mib
from orchestrator.grid.expand import Grid, expand, matching_keys
from orchestrator.grid.file import read_grid
from orchestrator.grid.model import pinned
from orchestrator.jobs.beforehand import check_planned, unchecked
from orchestrator.jobs.budget import set_budget
from orchestrator.jobs.control import jobs_matching, log_of, pass_on, set_limit
from orchestrator.jobs.faults import Fault, faults_of
from orchestrator.jobs.notifying import tell
from orchestrator.jobs.retry import Mode, repeated_faults, select
from orchestrator.jobs.submit import Receipt, Sender
from orchestrator.learned import find_alignment, with_alignment, write_index
from orchestrator.plan.calibration import write_costs
from orchestrator.plan.machines import machines
from orchestrator.plan.plan import Plan, Planner, n_settings
from orchestrator.report import frames, pictures
from orchestrator.report.frames import Check
from orchestrator.report.notebook import Page
from orchestrator.spec.schema import SweepSpec
from orchestrator.status.cell_state import CellState
from orchestrator.status.reader import StatusReader
from orchestrator.status.states import JobStatus, SweepStatus
from orchestrator.store.metrics import Metric
from workers.files.folder import SweepFolder

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.report.comparison import Comparison
    from workers.alignments.learned import LearnedAlignment

SWEEPS = Path("sweeps")


class Sweep:
    """One sweep: its spec, its folder, its cells, and what can be done with them."""

    def __init__(self, spec: SweepSpec, folder: SweepFolder, grid: Grid) -> None:
        self.spec, self.folder, self.grid = spec, folder, grid
        self._is_as_planned = False  # what the folder says of spec and cells is what this object was read from

    @classmethod
    def load(cls, source: str | Path, *, overrides: Iterable[str] = (), sweeps: Path = SWEEPS) -> Sweep:
        """The sweep of a spec file, of a sweep's folder, or of the name of a folder in `sweeps`; nothing is written.

        A spec file is expanded against its model; a folder is taken as it was planned. One whose cells are missing, as
        after a command that was killed before it wrote them, is expanded from its spec again.
        Raises: SpecError, SweepNotFound, SweepConflict (the folder of that name holds another science).
        """
        found = sweep_folder.find(source, sweeps, list(overrides))
        if found.is_planned and found.folder.cells.exists():
            sweep = cls(found.spec, found.folder, read_grid(found.folder.cells))
            sweep._is_as_planned = not found.spec_is_changed
            return sweep
        spec = pinned(found.spec)
        grid = expand(spec, found.folder)
        sweep_folder.check_same_science(found.folder, spec, grid)
        return cls(spec, found.folder, grid)

    # Run ----------------------------------------------------------------------------------------------------------

    def plan(self, *, on: str = "") -> Plan:
        """What running the rest of the sweep would mean on `on` (default: the spec's cluster, else this machine).

        Raises: SpecError, ClusterUsageError.
        """
        planner = Planner(self.spec, self.folder, self.grid, machines(self.spec, on, self.folder))
        plan = planner.plan(self.status())
        return replace(plan, notes=(*plan.notes, *unchecked(self.spec, self.folder, on, plan.jobs))) if on else plan

    def submit(
        self,
        *,
        on: str = "local",
        reuse: Sequence[str | Path] = (),
        auto: bool = False,
        where: Sequence[str] = (),
    ) -> Receipt:
        """Hand the cells that are in no job and have no row to the backend `on`, and return.

        `reuse`: sweeps whose rows of the same cells count here as well. `where`: only the cells that match. `auto`: a
        follow-up job resumes the sweep while something is worth another try (SLURM).
        Raises: SpecError, SweepBusy, BudgetReached, StorageError, ClusterError.
        """
        with sweep_folder.written(self.folder, self.spec, self.grid):
            for source in reuse:
                other = sweep_folder.find(source, self.folder.root.parent, ())
                sweep_folder.reuse_rows(self.folder, self.grid, other.folder)
            self._sender.confirm(read_submissions(self.folder))
            return self._sender.send(on, Mode.SUBMIT, auto=auto, where=where)

    def resume(
        self,
        *,
        on: str = "",
        mode: Mode = Mode.RESUME,
        auto: bool = False,
        force: bool = False,
        where: Sequence[str] = (),
    ) -> Receipt:
        """Hand over again what is missing or failed, and nothing that runs, waits or is done.

        `on`: default the backend of the last submission. `mode` AUTO: only what is worth another try without a person
        (`orchestrator.jobs.retry`). `force`: also after a bug that was seen often. `auto`, `where`: see `submit`.
        Raises: RepeatedBug, SweepBusy, StorageError, SweepNotFound (never submitted), ClusterError.
        """
        known = read_submissions(self.folder)
        if not known:
            check_planned(self.spec, self.folder, on, lambda: self.status().is_done)
        with self._in_place():
            self._sender.confirm(known)
            backend = on or (known[-1].backend if known else "local")
            return self._sender.send(backend, mode, auto=auto, force=force, where=where)

    def run(
        self,
        *,
        on: str = "local",
        reuse: Sequence[str | Path] = (),
        poll_s: float = 2.0,
        where: Sequence[str] = (),
    ) -> SweepStatus:
        """The last status after submitting and waiting until nothing runs; what is worth another try is tried again.

        Raises: as `submit`, and RepeatedBug.
        """
        self.submit(on=on, reuse=reuse, where=where)
        return deque(self.watch(poll_s=poll_s, heal=True, where=where), maxlen=1).pop()

    # While it runs ------------------------------------------------------------------------------------------------

    def status(self) -> SweepStatus:
        """What is known of every cell and job now: one question to each backend that has jobs of the sweep."""
        return self._reader.read()

    def watch(self, *, poll_s: float = 2.0, heal: bool = False, where: Sequence[str] = ()) -> Iterator[SweepStatus]:
        """The status every `poll_s` seconds until no job waits or runs; with `heal`, what is worth it of the cells that
        match `where` is tried again.

        Raises: RepeatedBug (with `heal`; the jobs that wait are cancelled first).
        """
        while True:
            status = self.status()
            yield status
            if heal and repeated_faults(status):
                self.cancel()
                select(status, self._reader.keys_of, Mode.AUTO)  # raises with the bug's name
            is_over = status.is_quiet and not (heal and self._healed(where))
            tell(self.folder, status, is_over=is_over)
            if is_over:
                self._learn(status)
                return
            time.sleep(poll_s)

    def jobs(self, where: Iterable[str] = ()) -> list[JobStatus]:
        """The jobs that wait or run and whose unfinished cells all match `where` (`KEY=VALUE`). Raises: SpecError."""
        return jobs_matching(self.status(), self.grid, self._reader.keys_of, where)

    def control(self, action: Control, jobs: Iterable[JobStatus]) -> None:
        """Cancel, kill, hold or release `jobs`. Raises: ClusterError."""
        pass_on(self.folder, action, jobs)

    def cancel(self) -> None:
        """Tell every job to write a checkpoint and end. Raises: ClusterError."""
        self.control(Control.CANCEL, self.jobs())

    def limit(self, n_jobs: int | None) -> tuple[str, ...]:
        """Let at most `n_jobs` jobs run at once (None: as many as fit) on each backend that has some, named here.

        Raises: ClusterError. SweepNotFound before anything was submitted.
        """
        return set_limit(self.folder, n_jobs)

    def limit_gpu_hours(self, gpu_hours: float | None) -> None:
        """Let nothing new begin once the sweep has spent this many GPU-hours, over all backends and submissions; None:
        it may spend as many as it takes. Raises: StorageError."""
        set_budget(self.folder, gpu_hours)

    def log(self, job: str) -> Path:
        """The log of a job, all its attempts in it. Raises: SweepNotFound naming the jobs that there are."""
        return log_of(self.folder, self.spec.name, job)

    def errors(self, status: SweepStatus | None = None) -> list[Fault]:
        """What went wrong, equal faults together, the most frequent first; of `status`, or as it is now."""
        return faults_of(status or self.status(), self.folder.logs)

    # Results ------------------------------------------------------------------------------------------------------

    def results(self, *, where: Iterable[str] = (), metric: Metric | None = None) -> pd.DataFrame:
        """The rows of the planned cells (columns of `workers.files.shard.SHARD_SCHEMA`) that match `where`; behind them
        the `metric`, where one is named, with its interval and its controls (see `frames.with_metric`)."""
        found = frames.rows(self._reader.store, self.grid, where)
        return found if metric is None else frames.with_metric(found, metric)

    def cells(self) -> pd.DataFrame:
        """One line a planned cell: what it is, its state, why, and its job."""
        return frames.cells(self.grid, self.status())

    def query(self, sql: str) -> pd.DataFrame:
        """DuckDB's answer; `results` are the rows, `cells` the planned cells with their state. Raises: SpecError."""
        return frames.query(
            sql, results=frames.with_model_names(self._reader.store.table(), self.grid), cells=self.cells()
        )

    def report(self, folder: Path | None = None, *, metric: Metric = Metric.IIA) -> Path:
        """The path of the HTML page, written anew with its pictures of that metric. Raises: StorageError."""
        rows, cells, target = self.results(), self.cells(), folder or self.folder.report
        traces = frames.traces(self.folder, aligned=with_alignment(self.folder, self.grid))
        return frames.report(
            rows, cells, target, spec=self.spec, baselines=self._baselines, metric=metric, traces=traces
        )

    def compare(
        self, other: Sweep, folder: Path | None = None, *, metric: Metric = Metric.IIA
    ) -> tuple[Comparison, Path]:
        """This sweep and another one, map by map, and the path of the page that shows it (default: in report/vs-NAME).

        Raises: SpecError where both are one sweep, StorageError.
        """
        first, second = ((one.spec, one.folder, one.results(), one.cells()) for one in (self, other))
        return frames.compare(first, second, folder, metric=metric)

    def figures(
        self,
        folder: Path | None = None,
        *,
        width_in: float = 5.5,
        formats: Sequence[str] = ("pdf",),
        experiments: Sequence[str] = (),
        setting: str = "",
        metric: Metric = Metric.IIA,
    ) -> list[Path]:
        """The maps as pictures for a paper, each `width_in` inches wide, in `folder` (default: report/paper).

        Raises: SpecError, StorageError.
        """
        target = folder or self.folder.report / "paper"
        maps = pictures.chosen(self.results(), self.cells(), experiments=experiments, setting=setting, metric=metric)
        return pictures.write(maps, target, width_in=width_in, formats=formats)

    def heatmap(
        self,
        experiment: str = "",
        *,
        ax: Any = None,
        method: str = "",
        setting: str = "",
        model: str = "",
        site: str = "",
        scale: str = "value",
        over: str = "maximum",
    ) -> Any:
        """Draw one map into `ax`, matplotlib's axes (default: new ones), and return them. `scale`: value, normalised or
        excess; `over`: maximum or mean over seeds. Raises: SpecError, also where several maps fit: it names them."""
        asked = {"experiment": experiment, "method": method, "model": model, "setting": setting, "site": site}
        return pictures.into(pictures.only(self.results(), self.cells(), asked), ax, scale=scale, over=over)

    def page(self, *, height: int = 700) -> Page:
        """The report's page, written anew; a notebook shows it inline, `height` pixels high. Raises: StorageError."""
        return Page(path=self.report(), height=height)

    def __repr__(self) -> str:
        return f"<Sweep {self.spec.name}: {self.grid.n_cells:,} cells in {self.folder.root}>"

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()

    def summary(self, *, metric: Metric = Metric.IIA) -> pd.DataFrame:
        """The paper's table, one line an experiment, method and setting: columns of `orchestrator.report.summary`."""
        return frames.summary(self.results(), self.cells(), baselines=self._baselines, metric=metric)

    def alignment(
        self,
        *,
        experiment: str | None = None,
        layer: int | None = None,
        position: int | str | None = None,
        seed: int | None = None,
        method: str | None = None,
        site: str | None = None,
        unit: int | None = None,
        model: str | None = None,
    ) -> LearnedAlignment:
        """What one cell has learned; `position` is a number or a token's label. A name may be left out where the sweep
        has one value of it.

        Raises: SpecError (no cell, or several; the message says what to add), SweepNotFound (nothing learned yet).
        """
        at, token = (None, position) if isinstance(position, str) else (position, None)
        wanted = {"experiment": experiment, "layer": layer, "position": at, "token": token, "seed": seed}
        wanted |= {"method": method, "site": site, "unit": unit, "model": model}
        return find_alignment(self.folder, self.grid, wanted)

    def check(self) -> Check:
        """Whether every planned cell is done and its rows are in the store, which is gathered; and what is missing."""
        found = frames.check(self.status(), self._reader.store)
        with contextlib.suppress(OSError):  # the alignments themselves say whose they are
            write_index(self.folder, frames.with_model_names(self._reader.store.table(), self.grid))
        return found

    def export_mib(
        self,
        folder: Path | None = None,
        *,
        where: Iterable[str] = (),
        task: str = "",
        positions: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> Exported:
        """Write what the done cells have learned as MIB's leaderboard takes it (default: to `mib` in the folder).

        `task`, `positions` and `variables` are MIB's names, the latter two by ours. Raises: as
        `orchestrator.export.mib.export_mib`.
        """
        names = MibNames(task=task, positions=positions or {}, variables=variables or {})
        done = {key for key, cell in self.status().cells.items() if cell.state is CellState.DONE}
        return export_mib(self.folder, self.grid, done, folder or self.folder.root / "mib", names=names, where=where)

    def doctor(self, *, on: str = "local") -> list[Finding]:
        """What the backend `on` allows and what will hurt. Raises: ClusterUsageError, SpecError."""
        return open_configured(self.spec, on, self.folder).doctor()

    def _in_place(self) -> AbstractContextManager[None]:
        """The folder, ready to take jobs. Only a command that was given a spec writes spec and cells: what was read
        from the folder may have been grown by somebody else since."""
        if not self._is_as_planned:
            return sweep_folder.written(self.folder, self.spec, self.grid)
        return sweep_folder.made(self.folder)

    def is_settled(self, status: SweepStatus, where: Iterable[str] = ()) -> bool:
        """Whether nothing is left to do for the cells that match `where`. Raises: SpecError."""
        only = matching_keys(self.grid, where)
        return status.is_done if only is None else all(status.cells[key].state.is_settled for key in only)

    def _healed(self, where: Sequence[str] = ()) -> bool:
        """Whether there is something to wait for: jobs that were handed over again, here or by somebody else.

        The sweep is read from its folder again: another command may have grown it since this one began to wait.
        """
        try:
            return Sweep.load(self.folder.root).resume(mode=Mode.AUTO, where=where).submission is not None
        except SweepBusy:
            return True
        except BudgetReached:
            return False

    def _learn(self, status: SweepStatus) -> None:
        """Gather the rows, and write down what they teach the next plan, and which file is which cell's alignment."""
        table, counts = self._reader.store.table(), n_settings(self.spec, self.grid)
        with contextlib.suppress(OSError):  # a plan without it is less exact, that is all
            write_costs(self.folder, self.grid, table, status.jobs, n_settings=counts)
            write_index(self.folder, frames.with_model_names(table, self.grid))

    @property
    def _baselines(self) -> dict[str, str]:
        return {one.name: one.baseline for one in self.spec.grid.experiments if one.baseline}

    @cached_property
    def _reader(self) -> StatusReader:
        return StatusReader(
            self.folder,
            self.grid,
            self.spec.evaluation_settings(),
            gate=self.spec.gate.task_accuracy,
            lost_after_s=self.spec.jobs.lost_after_s,
            coarse=self.spec.grid.coarse,
        )

    @cached_property
    def _sender(self) -> Sender:
        return Sender(self.spec, self.folder, self.grid, self._reader)
