"""The documents of --json: the same keys on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.backend import Finding
    from orchestrator.audit.explain import Explanation
    from orchestrator.audit.findings import Audit
    from orchestrator.jobs.faults import Fault
    from orchestrator.jobs.submit import Receipt
    from orchestrator.plan.plan import Plan
    from orchestrator.report.frames import Check
    from orchestrator.status.states import JobStatus, SweepStatus


def plan_document(plan: Plan) -> dict[str, Any]:
    """Cells, jobs, GPU-hours, makespan, and the reference's."""
    return {
        "sweep": plan.sweep,
        "engine": plan.engine,
        "cells": {
            "total": plan.n_cells,
            "done": plan.n_done,
            "in_jobs": plan.n_held,
            "skipped": plan.n_skipped,
            "inapplicable": plan.n_inapplicable,
            "left_out": plan.n_left_out,
            "to_run": plan.n_to_run,
        },
        "machines": asdict(plan.machines),
        "calibration": asdict(plan.calibration) if plan.calibration else None,
        "models": list(plan.models),
        "calibrations": {name: asdict(one) for name, one in plan.calibrations.items()},
        "totals": asdict(plan.totals),
        "reference": asdict(plan.reference),
        "memory": asdict(plan.memory) if plan.memory else None,
        "jobs": [
            {
                "label": job.label,
                "model": job.model,
                "n_cells": job.n_cells,
                "predicted_s": job.predicted_s,
                "upper_s": job.upper_s,
            }
            for job in plan.jobs
        ],
        "notes": list(plan.notes),
    }


def receipt_document(receipt: Receipt) -> dict[str, Any]:
    """What was submitted."""
    submission = receipt.submission
    return {
        "backend": receipt.backend,
        "submission": submission.number if submission else None,
        "token": submission.token if submission else "",
        "n_cells": receipt.n_cells,
        "n_jobs": len(submission.handles) if submission else 0,
        "handles": dict(submission.handles) if submission else {},
        "message": submission.message if submission else "",
        "followup": submission.followup if submission else "",
        "notes": list(receipt.notes),
        "watch": list(receipt.watch),
    }


def status_document(status: SweepStatus) -> dict[str, Any]:
    """The status without the single cells."""
    from orchestrator.status.cell_state import CellState

    return {
        "sweep": status.name,
        "folder": status.folder,
        "is_done": status.is_done,
        "is_quiet": status.is_quiet,
        "cells": {"total": len(status.cells)} | {str(state): status.counts[state] for state in CellState},
        "gpu_hours_used": status.gpu_hours_used,
        "gpu_hours_to_come": status.gpu_hours_to_come,
        "max_gpu_hours": status.max_gpu_hours,
        "eta_s": status.eta_s,
        "jobs": [job_document(job) for job in status.jobs],
        "torn": [{"path": str(shard.path), "problem": shard.problem} for shard in status.torn],
        "notes": list(status.notes),
        "watch": list(status.watch),
    }


def job_document(job: JobStatus) -> dict[str, Any]:
    """One job."""
    progress = job.progress
    return {
        "job": job.name,
        "label": job.label,
        "submission": job.submission,
        "backend": job.backend,
        "handle": job.handle,
        "state": str(job.state),
        "detail": job.detail,
        "is_lost": job.is_lost,
        "is_starting": job.is_starting,
        "node": job.node,
        "gpu": job.gpu,
        "attempt": job.attempts[-1].number if job.attempts else 0,
        "cells_total": job.n_cells,
        "cells_done": job.n_settled,
        "phase": progress.phase if progress else "",
        "steps_per_s": progress.steps_per_s if progress else 0.0,
        "pairs_per_s": progress.pairs_per_s if progress else 0.0,
        "gpu_utilisation": progress.gpu_utilisation if progress else 0.0,
        "best_iia": dict(progress.best_iia) if progress else {},
        "lost_s": job.lost_s,
        "predicted_s": job.predicted_s,
        "elapsed_s": job.elapsed_s,
        "eta_s": job.eta_s,
        "notes": list(progress.notes) if progress else [],
        "failure": failure_document(job),
    }


def failure_document(job: JobStatus) -> dict[str, str] | None:
    """Why the job ended without finishing."""
    if job.failure is None:
        return None
    return {"kind": str(job.failure.kind), "message": job.failure.message, "fingerprint": job.failure.fingerprint}


def faults_document(faults: Sequence[Fault]) -> list[dict[str, Any]]:
    """The groups of equal failures."""
    return [asdict(fault) for fault in faults]


def check_document(check: Check) -> dict[str, Any]:
    """Whether every cell is done."""
    return asdict(check)


def explanations_document(found: Sequence[Explanation], n_cells: int) -> dict[str, Any]:
    """Why cells are in their states: those of `found`, of `n_cells` that were asked for."""
    return {"n_cells": n_cells, "cells": [asdict(one) | {"is_settled": one.is_settled} for one in found]}


def audit_document(audit: Audit) -> dict[str, Any]:
    """What the files prove."""
    return {"is_proven": audit.is_proven} | asdict(audit)


def doctor_document(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings of a check of a backend."""
    return [asdict(finding) for finding in findings]
