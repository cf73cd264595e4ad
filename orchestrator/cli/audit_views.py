"""What people see of `explain` and `fsck`: lines of a terminal's width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.cli.render import duration, out
from orchestrator.wording import counted

if TYPE_CHECKING:
    from orchestrator.audit.explain import Explanation, JobFound, RowFound
    from orchestrator.audit.findings import Audit, Finding
    from orchestrator.audit.nearest import Comparison

_NARROW = 80  # the width where the output is no terminal


def explanations_view(found: Sequence[Explanation], n_all: int) -> Iterator[str]:
    """Each cell in a paragraph."""
    for number, one in enumerate(found):
        yield from ["", *_cell(one)] if number else _cell(one)
    if n_all > len(found):
        yield ""
        n_more = n_all - len(found)
        yield f"{counted(n_more, 'more cell')}: --limit 0 explains all"


def _cell(one: Explanation) -> Iterator[str]:
    fields = {name: value for name, value in one.fields.items() if value is not None and name != "cell_key"}
    what = ", ".join(f"{name} {value!r}" if name == "token" else f"{name} {value}" for name, value in fields.items())
    yield from _wrapped(f"{one.key[:16]}: {what}", indent="  ")
    state = one.state.label if one.state else "not planned"
    yield from _item("state", f"{state}: {one.reason}" if one.reason else state)
    if one.lacking and one.state is not None and not one.state.is_settled:
        yield from _item("lacks", f"a row of the setting {', '.join(one.lacking)}")
    for row in one.rows:
        yield from _item("row", _row(row))
    for job in one.jobs:
        yield from _job(job)
    if not one.jobs and not one.rows:
        yield from _item("jobs", "none has had it")
    yield from _item("next", one.next)
    if one.compared:
        yield from _comparison(one.compared)


def _row(row: RowFound) -> str:
    counts = f" {row.n_correct} of {row.n_total}" if row.n_correct is not None else ""
    where = f" on {row.host}{f' ({row.gpu})' if row.gpu else ''}" if row.host else ""
    when = f", {row.ended:%Y-%m-%d %H:%M}" if row.ended else ""
    why = f"; {row.reason}" if row.reason else ""
    no = f"; it does not count: {row.why_not}" if row.why_not else ""
    return f"{row.setting}: {row.status}{counts}, {row.shard}{where}{when}{why}{no}"


def _job(job: JobFound) -> Iterator[str]:
    handle = f", {job.handle}" if job.handle else ""
    detail = f": {job.detail}" if job.detail else ""
    yield from _item("job", f"{job.job} ({job.backend}, submission {job.submission}{handle}): {job.state}{detail}")
    for attempt in job.attempts:
        where = f" on {attempt.host}" if attempt.host else ""
        end = f"; {attempt.end}" if attempt.end else ""
        said = f"attempt {attempt.number}: {attempt.state}{where} after {duration(attempt.seconds)}{end}"
        yield from _wrapped(f"      {said}", indent="        ")


def _comparison(compared: Comparison) -> Iterator[str]:
    yield from _item("near", f"{compared.key[:16]} ({compared.where}) differs in {len(compared.differences)} fields:")
    for one in compared.differences:
        yield from _wrapped(f"      {one.field}: {one.here!r} here, {one.there!r} there", indent="        ")


def audit_view(audit: Audit) -> Iterator[str]:
    """What was repaired, what was found, and the verdict."""
    yield from (f"repaired: {line}" for line in audit.repaired)
    for finding in audit.findings:
        yield from _finding(finding)
    counts = {"row": audit.n_rows, "shard": audit.n_shards, "job": audit.n_jobs, "submission": audit.n_submissions}
    files = ", ".join(counted(count, what) for what, count in counts.items())
    if audit.is_proven:
        yield from _wrapped(
            f"{audit.sweep}: proven: each of {audit.n_cells:,} planned cells is settled exactly once "
            f"({audit.n_done:,} measured; {files})"
        )
        return
    settled = (
        f"{audit.n_settled:,} of {audit.n_cells:,} planned cells settled" if audit.n_cells else "cells not readable"
    )
    yield from _wrapped(f"{audit.sweep}: not proven: {settled} ({files})")
    if any(finding.is_repairable for finding in audit.findings):
        yield f"next: causalsweep fsck {audit.sweep} --repair"


def _finding(finding: Finding) -> Iterator[str]:
    yield from _wrapped(f"{finding.severity}: {finding.where}: {finding.problem}", indent="  ")
    if finding.remedy:
        yield from _wrapped(f"  remedy: {finding.remedy}", indent="    ")


def _item(name: str, text: str) -> list[str]:
    return _wrapped(f"  {name + ':':<7}{text}", indent=" " * 9)


def _wrapped(text: Any, *, indent: str = "") -> list[str]:
    width = max(out.width, 40) if out.is_terminal else _NARROW
    lines = []
    for number, line in enumerate(str(text).splitlines()):
        first = "" if number == 0 else indent
        lines += textwrap.wrap(
            line,
            width,
            initial_indent=first,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
    return lines
