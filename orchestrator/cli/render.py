"""What people see: tables and lines, made with rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.status.cell_state import CellState
from orchestrator.wording import counted
from workers.files.failure import FailureClass
from workers.files.place import BLOCK_OUTPUT
from workers.files.progress import AttemptState

if TYPE_CHECKING:
    from cluster.backend import Finding
    from orchestrator.drafting.draft import Draft
    from orchestrator.grid.prompt_preview import ExamplePrompt
    from orchestrator.jobs.faults import Fault
    from orchestrator.jobs.submit import Receipt
    from orchestrator.listing import Listed
    from orchestrator.plan.plan import Plan, Totals
    from orchestrator.report.frames import Check
    from orchestrator.status.states import JobStatus, SweepStatus

out = Console(highlight=False, soft_wrap=True)
if not out.is_terminal:
    out.width = 160  # a pipe or a log has no width of its own

_NUMBERS = ("cells", "steps/s", "left", "attempt")

_MAX_LIVE_JOBS = 16


def duration(seconds: float) -> str:
    """`1 d 4 h`, `2 h 05 min`, `3 min 20 s`, `7 s`."""
    whole = max(round(seconds), 0)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole % 60:02d} s" if minutes else f"{whole} s"


def plan_view(plan: Plan, *, where: str = "", with_cells: bool = True) -> Group:
    """The plan: cells, then the engine's figures beside the reference's. `where` says what its machines are."""
    cells = f"{plan.sweep}: {plan.n_cells:,} cells, {plan.n_done:,} done"
    cells += f", {plan.n_held:,} in jobs" if plan.n_held else ""
    cells += f", {plan.n_skipped:,} skipped" if plan.n_skipped else ""
    cells += f", {plan.n_inapplicable:,} inapplicable" if plan.n_inapplicable else ""
    cells += f", {plan.n_left_out:,} left out so far" if plan.n_left_out else ""
    machines = plan.machines
    title = f"{plan.n_to_run:,} cells to run on {machines.n_gpus} x {machines.kind}{f' ({where})' if where else ''}"
    table = Table(title=title, title_justify="left")
    table.add_column("engine")
    for name in ("jobs", "h per job", "worker-hours" if machines.kind == "cpu" else "GPU-hours", "makespan"):
        table.add_column(name, justify="right")
    table.add_row(*_totals_row(plan.engine, plan.totals))
    if plan.engine != "reference":
        table.add_row(*_totals_row("reference", plan.reference), style="dim")
    notes = [*_memory_lines(plan), *(f"note: {note}" for note in plan.notes)] if with_cells else []
    return Group(*([cells] if with_cells else []), table, f"estimates are based on {_basis(plan)}", *notes)


def _basis(plan: Plan) -> str:
    """What the estimates rest on."""
    n_cells = sum(one.n_cells for one in plan.calibrations.values())
    if not plan.calibrations:
        return "the throughput in a table, because nothing is measured yet; they may be wrong by a factor"
    if len(plan.models) == 1:
        return f"{n_cells:,} measured cells of this model on this kind of device"
    measured = f"{n_cells:,} measured cells of {len(plan.calibrations)} models on this kind of device"
    n_others = len(plan.models) - len(plan.calibrations)
    return measured + (f", and on the throughput in a table for the other {n_others}" if n_others else "")


def _memory_lines(plan: Plan) -> list[str]:
    """What cells take beside the model's weights; the site is named where it is not the common one."""
    memory = plan.memory
    if memory is None:
        return []
    where = f" ({memory.site}, {memory.width:,} wide)" if memory.site != BLOCK_OUTPUT else ""
    cell, cohort = (_size(n_bytes) for n_bytes in (memory.cell_bytes, memory.cohort_bytes))
    return [
        f"memory beside the weights: up to {cell} a cell{where}, {cohort} a cohort; a worker cuts what does not fit"
    ]


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:,.1f} MB"


def _totals_row(engine: str, totals: Totals) -> list[str]:
    makespan = duration(totals.makespan_h * 3600)
    return [engine, f"{totals.n_jobs:,}", f"{totals.job_h:.2f}", f"{totals.gpu_hours:,.1f}", makespan]


def prompt_view(prompt: ExamplePrompt) -> Group:
    """The prompt's tokens, one per line; those in the grid are highlighted."""
    from orchestrator.report.heatmap import shown_token

    table = Table(title=f"{prompt.task}: {len(prompt.tokens)} tokens; answer {prompt.answer!r}", title_justify="left")
    table.add_column("index", justify="right")
    for name in ("token", "label", "name", "in the grid"):
        table.add_column(name)
    for token in prompt.tokens:
        index = "" if token.index is None else str(token.index)
        cells = [index, shown_token(token.text), shown_token(token.label), ", ".join(token.names)]
        table.add_row(*map(Text, cells), "yes" if token.in_grid else "", style="" if token.in_grid else "dim")
    return Group(Text(prompt.text), table)


def receipt_view(receipt: Receipt, name: str) -> Group:
    """What was submitted, and what to do next."""
    submission = receipt.submission
    if submission is None:
        return Group(f"{name}: nothing to run; every cell is done, skipped, failed or in a job")
    cells, jobs = counted(receipt.n_cells, "cell"), counted(len(submission.handles), "job")
    lines = [f"{name}: {cells} in {jobs} submitted to {receipt.backend}"]
    lines += [submission.message] if submission.message else []
    lines += [f"follow-up job {submission.followup} will retry what may succeed"] if submission.followup else []
    lines += [f"note: {note}" for note in receipt.notes]
    return Group(*lines, *receipt.watch, f"watch: causalsweep status {name} --watch")


def status_view(status: SweepStatus, *, live: bool = False) -> Group:
    """The sweep's counts, ETA and jobs; `live` shows the jobs that matter now, and as many as fit."""
    parts: list[Text | Table | str] = [_counts(status)]
    if live:
        bar = Table.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=1.0, completed=status.share_done, width=60), f"{status.share_done:.0%}")
        parts.append(bar)
    parts.append(_hours(status))
    jobs = status.jobs
    if live:
        running = [job for job in jobs if job.holds_cells]
        jobs = tuple(sorted(running, key=lambda job: job.state != "RUNNING")[:_MAX_LIVE_JOBS])
    if jobs:
        parts.append(jobs_table(jobs))
    parts += [f"note: {note}" for note in status.notes]
    parts += [f"torn shard: {shard.path} ({shard.problem})" for shard in status.torn]
    return Group(*parts, *_failed_jobs(status), *status.watch)


def draft_view(draft: Draft) -> Group:
    """What `init` wrote, what it costs, and the commands to type next."""
    plan = draft.plan
    written = f"written: {draft.spec}" + (f" and {draft.task}" if draft.task else "")
    device = "workers on this machine" if plan.machines.kind == "cpu" else plan.machines.kind
    time = duration(plan.totals.makespan_h * 3600)
    cost = f"{plan.n_to_run:,} cells, about {time} on {plan.machines.n_gpus} {device}"
    notes = [f"note: {note}" for note in (*draft.notes, *plan.notes)]
    return Group(written, cost, *notes, "next:", *(f"  {command}" for command in draft.commands))


def sweeps_view(found: Sequence[Listed], ages: Sequence[str]) -> Table:
    """One line a sweep: cells done of all, and the time since anything was written; the reason where it has one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("sweep", "state", "cells", "age"):
        table.add_column(name, justify="right" if name == "cells" else "left", no_wrap=True)
    table.add_column("detail", overflow="fold")
    for line, age in zip(found, ages, strict=True):
        detail = "" if line.state == "done" else line.detail
        table.add_row(line.name, line.state, f"{line.n_done:,}/{line.n_cells:,}", age, detail)
    return table


def _failed_jobs(status: SweepStatus) -> list[Text | str]:
    """The last jobs that failed and left cells open, and the number of those whose cells are done or in later jobs."""
    to_blame = status.jobs_to_blame
    failed = [(job, job.failure) for job in status.jobs if job.failure and not job.failure.kind.is_interruption]
    parts: list[Text | str] = [
        Text(f"{job.name} failed: {failure.kind.label}: {_first_line(failure.message)}", "red")
        for job, failure in [case for case in failed if case[0].name in to_blame][-5:]
    ]
    n_others = sum(job.name not in to_blame for job, _ in failed)
    if n_others:
        jobs = "1 job" if n_others == 1 else f"{n_others} jobs"
        parts.append(
            f"{jobs} failed, but all their cells are now done or in later jobs: causalsweep errors {status.name}"
        )
    return parts


def _hours(status: SweepStatus) -> str:
    on_cpu = all(job.progress is None or job.progress.gpu_name == "cpu" for job in status.jobs)
    line = f"{'worker-hours' if on_cpu else 'GPU-hours'}: {status.gpu_hours_used:.2f} used"
    line += f" of {status.max_gpu_hours:g}" if status.max_gpu_hours is not None else ""
    if status.is_quiet:
        return line
    return f"{line}, about {status.gpu_hours_to_come:.2f} to come; about {duration(status.eta_s)} left"


def _counts(status: SweepStatus) -> Text:
    text = Text(f"{status.name}: {len(status.cells):,} cells")
    for state in CellState:
        if status.counts[state]:
            text.append(", ")
            text.append(f"{status.counts[state]:,} {state.label}", state.colour)
    return text


def status_line(status: SweepStatus) -> str:
    """The status on one line, for logs and pipes."""
    counts = ", ".join(f"{status.counts[state]} {state.label}" for state in CellState if status.counts[state])
    if status.is_quiet:
        return f"{status.name}: {counts}"
    starting = sum(job.is_starting for job in status.jobs)
    running = sum(job.state == "RUNNING" for job in status.jobs) - starting
    begin = f", {starting} starting" if starting else ""
    return f"{status.name}: {counts}; {counted(running, 'job')} running{begin}; about {duration(status.eta_s)} left"


def jobs_table(jobs: Sequence[JobStatus]) -> Table:
    """One line per job, without empty columns."""
    lines = [_job_cells(job) for job in jobs]
    table = Table(box=None, pad_edge=False, header_style="bold")
    shown = [name for name in lines[0] if any(line[name] for line in lines)]
    for name in shown:
        is_text = name in ("what", "node", "GPU", "detail")
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=not is_text)
    for line in lines:
        table.add_row(*(line[name] for name in shown))
    return table


def _job_cells(job: JobStatus) -> dict[str, str]:
    progress = job.progress
    return {
        "job": job.name,
        "what": job.label,
        "state": _shown_state(job),
        "node": job.node,
        "GPU": job.gpu,
        "cells": f"{job.n_settled}/{job.n_cells}",
        "steps/s": f"{progress.steps_per_s:.1f}" if progress and job.state == "RUNNING" else "",
        "left": duration(job.eta_s) if job.holds_cells and job.eta_s else "",
        "attempt": str(job.attempts[-1].number) if job.attempts else "",
        "detail": job.detail,
    }


def _shown_state(job: JobStatus) -> str:
    """The job's state for people; one that was stopped and wrote its checkpoint is not called killed or failed."""
    progress = job.progress
    if not job.holds_cells and progress and progress.state is AttemptState.INTERRUPTED:
        by_budget = job.failure is not None and job.failure.kind is FailureClass.BUDGET
        return "stopped, budget spent" if by_budget else "stopped, checkpoint kept"
    if job.is_starting:
        return "STARTING"
    return "LOST" if job.is_lost else str(job.state)


def skipped_lines(status: SweepStatus) -> list[str]:
    """One line for each reason why cells were skipped, with what would run them."""
    remedy = "they run under a lower gate.task_accuracy"
    return [f"{counted(n_cells, 'cell')} skipped: {why}; {remedy}" for why, n_cells in status.skipped.items()]


def faults_view(faults: Sequence[Fault], *, with_traceback: bool) -> Group:
    """Each fault once, with its count and its places."""
    if not faults:
        return Group("no failures")
    parts: list[Text | str] = []
    for fault in faults:
        head = f"{fault.count} x {fault.kind.label} [{fault.fingerprint or 'no fingerprint'}]"
        parts.append(Text(head, "bold red"))
        parts.append(f"  jobs: {', '.join(fault.jobs[:8])}{' ...' if len(fault.jobs) > 8 else ''}")
        parts += [f"  hosts: {', '.join(fault.hosts)}"] if fault.hosts else []
        parts.append(f"  {fault.message}")
        parts += [f"  its log ends: {fault.log_line}"] if fault.log_line else []
        if with_traceback and fault.traceback:
            parts += ["", Text(fault.traceback.rstrip(), "dim"), ""]
    return Group(*parts)


def check_view(check: Check, name: str) -> Group:
    """Whether every cell is done."""
    head = Text(f"{name}: {check.n_done:,} of {check.n_cells:,} cells done", "green" if check.is_done else "red")
    return Group(head, *check.problems, *check.remarks)


def doctor_view(findings: Sequence[Finding]) -> Table:
    """One line per finding, with the remedy for each problem."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "check", "found", "remedy"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("!!", "bold red")
        table.add_row(mark, finding.check, finding.found, "" if finding.ok else finding.remedy)
    return table


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
