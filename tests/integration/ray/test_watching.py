"""A sweep that keeps every GPU busy, as people see it: on the dashboard, in Prometheus, in the record."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import cluster.ray
from cluster.backend import JobRequest, JobState
from cluster.testbed.machine import free_ports
from cluster.testbed.ray import RayTestbed
from tests.browser import browser
from tests.contract.bench import Bench

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PUBLISHER = Path(__file__).with_name("publishing_job.py")
MONITORING = Path(cluster.ray.__file__).with_name("monitoring")
HYPOTHESES = ("left_boundary", "bracket_identity")
N_JOBS = 17  # one more than there are GPUs
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Crowd:
    """Seventeen jobs on sixteen GPUs; none ends before the gate is open."""

    bench: Bench
    handles: dict[str, str]

    @property
    def submission(self) -> str:
        """The Ray Job's id."""
        return self.handles["j0"].rpartition(".")[0]


@pytest.fixture(scope="module")
def crowd(bench_at: Callable[[Path], Bench], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """The jobs, sixteen of them running."""
    bench = bench_at(tmp_path_factory.mktemp("watched") / "price-tagging")
    handles = bench.cluster().submit([publishing(bench, index) for index in range(N_JOBS)], token="t1")
    bench.wait("16 starts", lambda: sum(len(bench.starts(name)) for name in handles) == 16)
    wanted = {JobState.RUNNING: 16, JobState.PENDING: 1}
    polled = bench.cluster().poll
    bench.wait("16 running", lambda: Counter(s.state for s in polled(list(handles.values())).values()) == wanted)
    yield Crowd(bench, handles)
    bench.open("gate")


def publishing(bench: Bench, index: int) -> JobRequest:
    """A job that publishes 3 cells done in its layer and waits for the gate."""
    hypothesis, layer = HYPOTHESES[index % 2], str(index // 2)
    tags = {"hypothesis": hypothesis, "layer": layer}
    numbers = [("cells_done", 3, "sum"), ("cells_failed", 0, "sum"), ("cells_running", 4, "now")]
    numbers += [("best_iia", 0.5 + index / 100, "max"), ("pairs_per_s", 512.0, "now")]
    readings = [{"name": name, "value": value, "combine": how, "tags": tags} for name, value, how in numbers]
    request = bench.request(f"j{index}", until="gate")
    argv = (sys.executable, "-I", "-S", str(PUBLISHER), json.dumps(readings), *request.argv)
    return replace(request, label=f"{hypothesis} L{layer} p80..81 s42 (7 cells)", argv=argv)


def test_sixteen_jobs_at_once_on_sixteen_gpus(crowd: Crowd) -> None:
    """The jobs that run at once have sixteen different (node, GPU) pairs, and their status says which; one waits."""
    statuses = crowd.bench.cluster().poll(list(crowd.handles.values()))
    running = {handle: status for handle, status in statuses.items() if status.state is JobState.RUNNING}
    shown = {(status.node, status.gpu) for status in running.values()}
    starts = [start for name in crowd.handles for start in crowd.bench.starts(name)]
    seen = {(start["CAUSALSWEEP_NODE"], start["CUDA_VISIBLE_DEVICES"]) for start in starts}
    assert len(starts) == len(seen) == 16
    assert seen == shown
    assert [status.state for status in statuses.values()].count(JobState.PENDING) == 1


def test_the_dashboard_tells_the_sweep(crowd: Crowd, bed: RayTestbed, tmp_path: Path) -> None:
    """The list of jobs has the sweep's name; its page the numbers of jobs and cells, every job's label, what runs and
    what waits, and where."""
    page = f"{bed.address}/#/jobs/{crowd.submission}"
    with browser(tmp_path / "profile", height=1600) as window:
        window.open(f"{bed.address}/#/jobs")
        window.wait_for_text("price-tagging", crowd.submission, "RUNNING", patience_s=PATIENCE_S)
        window.open(page)
        shown = ("Running: 16", "Waiting for scheduling: 1", f"2 / {N_JOBS + 2}", "node-1, GPU 7")
        text = window.wait_for_text(*shown, patience_s=PATIENCE_S)
        assert f'"jobs": "17", "cells": "119", "folder": "{crowd.bench.folder}"' in text
        window.click(f"2 / {N_JOBS + 2}", "svg")
        labels = {f"{HYPOTHESES[i % 2]} L{i // 2} p80..81 s42 (7 cells)" for i in range(N_JOBS)}
        window.wait_for_text(*labels, patience_s=PATIENCE_S)
        window.screenshot(tmp_path / "dashboard.png")
    assert (tmp_path / "dashboard.png").stat().st_size > 20_000


def test_a_jobs_output_is_in_its_tasks_log(crowd: Crowd, bed: RayTestbed) -> None:
    """What a job prints is what the dashboard's Log link of its task shows, and is in the sweep's own log too."""
    (task,) = tasks(bed, "left_boundary L0 p80..81 s42 (7 cells)")
    log = ask(f"{bed.address}/api/v0/logs/file?task_id={task['task_id']}&lines=100&suffix=out")
    assert "pairs per second: 512" in log
    assert "j0 starts at step 0" in log
    assert "pairs per second: 512" in (crowd.bench.folder / "logs" / "j0.log").read_text()


def test_prometheus_scrapes_the_jobs_numbers(crowd: Crowd, bed: RayTestbed, tmp_path: Path) -> None:
    """A real Prometheus with the shipped configuration has the jobs' numbers, added up as the jobs wished, and every
    query of the shipped Grafana dashboard has an answer."""
    config = (MONITORING / "prometheus.yml").read_text()
    config = config.replace("http://127.0.0.1:8265", bed.address).replace("10s", "1s").replace("15s", "1s")
    (tmp_path / "prometheus.yml").write_text(config)
    listen = f"127.0.0.1:{free_ports(1)}"
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    log = open(tmp_path / "prometheus.log", "wb")  # noqa: SIM115 - closed below, with the process
    server = subprocess.Popen([*command, f"--web.listen-address={listen}"], stdout=log, stderr=log)
    try:
        best = max(0.5 + int(name[1:]) / 100 for name in crowd.handles if crowd.bench.starts(name))
        expected = {
            "sum by (hypothesis) (ray_causalsweep_cells_done{%s})": dict.fromkeys(HYPOTHESES, 24.0),
            "max(ray_causalsweep_best_iia{%s})": {"": best},
            "sum(ray_causalsweep_pairs_per_s{%s})": {"": 16 * 512.0},
            'ray_causalsweep_jobs{%s,state="RUNNING"}': {"": 16.0},
        }
        for query, answer in expected.items():
            asked = partial(values, listen, query % 'sweep="price-tagging"')
            crowd.bench.wait(query, lambda asked=asked, answer=answer: asked() == answer)
        for query in grafana_queries():
            crowd.bench.wait(query, partial(values, listen, query.replace("$sweep", "price-tagging")))
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def test_the_crowd_ends_well(crowd: Crowd) -> None:
    """With the gate open every job is COMPLETED after one start, the seventeenth on a GPU that became free."""
    crowd.bench.open("gate")
    statuses = crowd.bench.wait_for(crowd.handles)
    assert {status.state for status in statuses.values()} == {JobState.COMPLETED}
    assert [len(crowd.bench.starts(name)) for name in crowd.handles] == [1] * N_JOBS


def tasks(bed: RayTestbed, name: str) -> list[dict[str, Any]]:
    """The tasks of this name that the dashboard lists."""
    where = urllib.parse.urlencode({"filter_keys": "name", "filter_predicates": "=", "filter_values": name})
    rows: list[dict[str, Any]] = json.loads(ask(f"{bed.address}/api/v0/tasks?detail=1&{where}"))["data"]["result"][
        "result"
    ]
    return rows


def grafana_queries() -> list[str]:
    """What the panels of the shipped dashboard ask."""
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(found) == len(dashboard["panels"]) > 5
    return [query.removesuffix(" > 0") for query in found]


def values(prometheus: str, query: str) -> dict[str, float]:
    """The answer to a query now, by hypothesis; nothing where Prometheus is not up yet."""
    try:
        answer = ask(f"http://{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    except OSError:
        time.sleep(0.2)
        return {}
    rows = json.loads(answer)["data"]["result"]
    return {row["metric"].get("hypothesis", ""): float(row["value"][1]) for row in rows}


def ask(url: str) -> str:
    """The body of a page."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as answer:
        return str(answer.read().decode())
