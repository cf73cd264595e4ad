"""What a real dashboard shows after holds, releases, limits, refusals and looks at the nodes: no made-up failure."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter

import pytest

from cluster.backend import ClusterUsageError, Control, JobState
from cluster.testbed.ray import RayTestbed
from tests.contract.bench import Bench
from tests.integration.ray.nodes import blind_node

pytestmark = [pytest.mark.ray, pytest.mark.slow]

N_JOBS = 20  # on sixteen GPUs


def ask(url: str) -> str:
    """The body of a page."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
        return str(answer.read().decode())


def tasks(bed: RayTestbed, prefix: str) -> Counter[str]:
    """The number of tasks in each state whose name begins so."""
    rows = json.loads(ask(f"{bed.address}/api/v0/tasks?detail=1&limit=10000"))["data"]["result"]["result"]
    return Counter(row["state"] for row in rows if row["name"].startswith(prefix))


def test_hold_release_and_limit_are_no_failed_tasks(bench: Bench, bed: RayTestbed) -> None:
    """Jobs in Ray's queue are held, released and limited; every job runs once, and no task is shown as failed."""
    requests = [bench.request(f"q{index}", until="gate") for index in range(N_JOBS)]
    handles = bench.cluster().submit(requests, token="t1")
    bench.wait("16 starts", lambda: sum(len(bench.starts(name)) for name in handles) == 16)
    waiting = [name for name in handles if not bench.starts(name)]
    queued = {name: handles[name] for name in waiting}
    bench.cluster().control(list(queued.values()), Control.HOLD)
    bench.wait_for(queued, JobState.HELD)
    bench.cluster().limit(17)
    bench.open("gate")
    running = {name: handles[name] for name in handles if name not in queued}
    assert {one.state for one in bench.wait_for(running).values()} == {JobState.COMPLETED}
    assert [len(bench.starts(name)) for name in queued] == [0] * len(queued)
    bench.cluster().control(list(queued.values()), Control.RELEASE)
    assert {one.state for one in bench.wait_for(queued).values()} == {JobState.COMPLETED}
    assert [len(bench.starts(name)) for name in handles] == [1] * N_JOBS
    bench.wait("all are shown as finished", lambda: set(tasks(bed, "tiny q")) == {"FINISHED"})


def test_a_waiting_job_says_what_it_waits_for(bench: Bench) -> None:
    """Its status names what it asks for, and that none of it is free; the log leads with what is done of all."""
    handles = bench.cluster().submit([bench.request(f"w{index}", until="gate") for index in range(17)], token="t1")
    polled = bench.cluster().poll

    def said() -> bool:
        found = polled(list(handles.values())).values()
        return any(one.detail.startswith("waits for 1 GPU, 1 CPU: no GPU of 16 is free") for one in found)

    bench.wait("a reason", said)
    bench.open("gate")
    bench.wait_for(handles)


def test_what_was_refused_or_only_looked_leaves_no_job(bench: Bench, bed: RayTestbed) -> None:
    """A refused submission and a doctor are gone from the list of jobs."""
    with blind_node(bed, bench.folder), pytest.raises(ClusterUsageError, match="cannot read"):
        bench.cluster().submit([bench.request("a")], token="t1")
    bench.cluster().doctor()
    jobs = json.loads(ask(f"{bed.address}/api/jobs/"))
    assert [job for job in jobs if (job.get("metadata") or {}).get("folder") == str(bench.folder)] == []
