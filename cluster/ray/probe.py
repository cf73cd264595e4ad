"""What a dispatcher tries on each node before it accepts a submission, so that a fault is told at once and by name."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.backend import JobRequest
from cluster.ray.record import Batch, NodeReport, RayFiles

PROBE_S: Final = 90.0  # a node's first Python process on a busy machine takes some seconds, on a slow file system more


def probe_nodes(record: RayFiles, submission: Batch) -> tuple[NodeReport, ...]:
    """What was found on each node that has the GPUs for one of the jobs."""
    least_gpus = min((request.n_gpus for request in submission.requests), default=0)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU", 0) >= least_gpus]
    programs = programs_of(submission.requests)
    look = ray.remote(num_cpus=0, max_retries=0)(look_around)
    pending: dict[Any, dict[str, Any]] = {}
    for node in nodes:
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        mark = record.root / f".probe-{submission.name}-{node['NodeID'][:12]}"
        task = look.options(scheduling_strategy=where, name=f"probe {node['NodeName']}")
        pending[task.remote(str(record.path(submission.name)), str(mark), programs)] = node
    began = time.time()
    ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=PROBE_S) if pending else ([], [])
    return tuple(_report(node, ref if ref in ready else None, began) for ref, node in pending.items())


def programs_of(requests: Sequence[JobRequest]) -> list[str]:
    """What a node must have to run these jobs; what is not here either is a job's own fault."""
    named = {request.argv[0] for request in requests} | {sys.executable}
    return sorted(program for program in named if shutil.which(program))


def look_around(path: str, mark: str, programs: Sequence[str]) -> dict[str, Any]:
    """The problem that a node has with the sweep's folder or the jobs' programs (empty: none), and its clock."""
    now = time.time()
    try:
        Path(path).read_bytes()
    except OSError as error:
        return {"problem": f"cannot read {path}: {error.strerror}", "clock": now}
    try:
        Path(mark).touch()
        os.unlink(mark)
    except OSError as error:
        return {"problem": f"cannot write below {os.path.dirname(mark)}: {error.strerror}", "clock": now}
    missing = [program for program in programs if shutil.which(program) is None]
    return {"problem": f"no program {missing[0]}" if missing else "", "clock": now}


def _report(node: dict[str, Any], ref: Any, began: float) -> NodeReport:
    name = str(node["NodeName"])
    if ref is None:
        return NodeReport(node=name, problem=f"did not answer within {PROBE_S:.0f} s")
    try:
        found = ray.get(ref)
    except ray.exceptions.RayError as error:
        return NodeReport(node=name, problem=str(error).strip().splitlines()[0])
    late_s = found["clock"] - time.time()  # the answer is younger than the question and older than now
    skew_s = late_s if late_s > 0 else min(0.0, found["clock"] - began)
    return NodeReport(node=name, problem=found["problem"], clock_skew_s=round(skew_s, 3))
