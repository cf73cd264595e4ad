"""One node of a Ray cluster inside a SLURM allocation: `srun python -m cluster.ray.allocation cluster/ray/NAME.json`.

1. Task 0 starts a head, on free ports, in a temporary folder and with a token of its own, and writes down where.
2. The other tasks join it, and none else can: whoever reaches a Ray cluster without a token runs programs on it.
3. Task 0 has the head run the submission's dispatcher, and waits for its end.
4. Each task ends all that it started and removes the folder; with the last one the allocation is over.

`ray symmetric-run` does not do here: it takes fixed ports, joins any cluster that it finds on the node, and ends with
`ray stop`, which kills other people's clusters too where the user may. Source: ray/scripts/symmetric_run.py.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

import psutil

from cluster.backend import ClusterUnavailable
from cluster.files import get_record, put_json
from cluster.process import ENV_DEADLINE
from cluster.ray.api import RayApi, RayNode
from cluster.ray.record import RayFiles
from cluster.ray.starting import start_dispatcher
from cluster.slurm.commands import ask

START_S: Final = 300.0  # for the head and each node: a first import of Ray from a slow file system takes a minute
N_TRIES: Final = 3  # to start a node: its raylet dies when its agents, Python processes, take 15 s to tell their ports
LOOK_S: Final = 2.0
_SUBREAPER: Final = 36  # prctl(2), PR_SET_CHILD_SUBREAPER: orphans below this process become its children

_T = TypeVar("_T")
_log = logging.getLogger("allocation")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """Where the head of a submission's own Ray cluster is."""

    host: str
    gcs: str  # HOST:PORT for the nodes
    dashboard: str  # http://127.0.0.1:PORT on `host`
    temp: str
    over: bool = False


def allocation_path(record: RayFiles, name: str) -> Path:
    """The file in which task 0 writes the allocation down."""
    return record.root / "slurm" / f"{name}.json"


def token_path(record: RayFiles, name: str) -> Path:
    """The file with the cluster's token, for its owner alone."""
    return record.root / "slurm" / f"{name}.token"


def read_allocation(record: RayFiles, name: str) -> Allocation | None:
    """The allocation of a submission, or None before it has begun."""
    return get_record(allocation_path(record, name), Allocation)


def main(arguments: Sequence[str]) -> int:
    """The exit code of one task: 0 when the dispatcher has ended, 1 when there was no cluster to be had."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    path = Path(arguments[0])
    record, name = RayFiles(path.parents[2]), path.stem
    task = int(os.environ["SLURM_PROCID"])
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_path(record, name))})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with _family():
            (_lead if task == 0 else _follow)(record, name)
    except _GivenUp as error:
        _log.error("task %d: %s", task, error)
        return 1
    return 0


def _lead(record: RayFiles, name: str) -> None:
    """Start the head, wait for the others, run the dispatcher to its end. Raises: _GivenUp."""
    slurm_job, n_nodes = os.environ["SLURM_JOB_ID"], int(os.environ["SLURM_NTASKS"])
    end = ask("squeue", "-h", "-j", slurm_job, "-o", "%e").strip()
    if end.isdigit():
        os.environ[ENV_DEADLINE] = end
    with open(os.open(token_path(record, name), os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    port, dashboard_port, client_port = _free_ports(3)
    api = RayApi(f"http://127.0.0.1:{dashboard_port}")
    with _temporary_folder(slurm_job) as temp:
        listen = ["--port", str(port), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)]
        head = ["--head", *listen, "--ray-client-server-port", str(client_port), "--temp-dir", temp]
        ray, nodes = _with_ray(head, lambda: _nodes(api), "the head", patience_s=START_S)
        gcs = f"{nodes[0].ip}:{port}"
        allocation = Allocation(host=socket.gethostname(), gcs=gcs, dashboard=api.address, temp=temp)
        put_json(allocation_path(record, name), asdict(allocation))
        _until(lambda: len(_nodes(api)) == n_nodes, ray, f"{n_nodes} nodes")
        submission = record.submission(name)
        assert submission is not None, "its file is what started this task"
        _log.info("%d nodes; dashboard %s on %s", n_nodes, api.address, allocation.host)
        start_dispatcher(api, record, submission)
        try:
            _until(lambda: _is_over(api, name), ray, "the dispatcher's end", patience_s=math.inf)
        finally:
            put_json(allocation_path(record, name), asdict(allocation) | {"over": True})
            token_path(record, name).unlink(missing_ok=True)


def _follow(record: RayFiles, name: str) -> None:
    """Join the head as one more node, until the allocation is over. Raises: _GivenUp."""
    allocation = _until(lambda: read_allocation(record, name), None, "the head")
    try:
        node = ["--address", allocation.gcs, "--temp-dir", allocation.temp]
        _with_ray(node, lambda: _said_over(record, name), "the end", patience_s=math.inf)
    finally:
        shutil.rmtree(allocation.temp, ignore_errors=True)


class _GivenUp(Exception):
    """There is no cluster to be had, or it broke."""


class _RayEnded(_GivenUp):
    """This node's Ray is not there any more."""


def _with_ray(
    arguments: Sequence[str], look: Callable[[], _T | None], what: str, *, patience_s: float
) -> tuple[subprocess.Popen[bytes], _T]:
    """This node's Ray, and what `look` sees once it is true; meanwhile Ray is started again where it ends.

    Raises: _GivenUp when that takes too long, or Ray ends too often.
    """
    for n_left in reversed(range(N_TRIES)):
        ray = _start_ray(*arguments)
        try:
            return ray, _until(look, ray, what, patience_s=patience_s)
        except _RayEnded as error:
            if not n_left:
                raise
            _log.warning("%s; again", error)
            _end_descendants()
    raise AssertionError("the last try returns or raises")


def _start_ray(*arguments: str) -> subprocess.Popen[bytes]:
    """`ray start` on this node: it stays in the foreground, parent of all that it starts."""
    agent_port, metrics_port = _free_ports(2)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *arguments]
    command += ["--node-name", os.environ.get("SLURMD_NODENAME", socket.gethostname())]
    command += ["--num-cpus", os.environ.get("SLURM_CPUS_PER_TASK") or os.environ["SLURM_CPUS_ON_NODE"]]
    command += ["--num-gpus", str(len(visible.split(",")) if visible else 0)]
    command += ["--dashboard-agent-listen-port", str(agent_port), "--metrics-export-port", str(metrics_port)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def _free_ports(n: int) -> list[int]:
    """Ports on which nothing listens now, as the kernel gives them out."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind(("", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _nodes(api: RayApi) -> list[RayNode]:
    try:
        return api.nodes()
    except ClusterUnavailable:
        return []


def _is_over(api: RayApi, name: str) -> bool:
    try:
        job = api.job(name)
    except ClusterUnavailable:  # busy; when the head is gone, `_until` sees it
        return False
    return job is None or job.status.is_over()


def _said_over(record: RayFiles, name: str) -> bool:
    allocation = read_allocation(record, name)
    return allocation is not None and allocation.over


def _until(
    look: Callable[[], _T | None], ray: subprocess.Popen[bytes] | None, what: str, *, patience_s: float = START_S
) -> _T:
    """What `look` sees once it is true. Raises: _GivenUp when that takes too long, or this node's Ray ends."""
    end = time.monotonic() + patience_s
    while not (seen := look()):
        if ray is not None and ray.poll() is not None:
            raise _RayEnded(f"`ray start` ended with exit code {ray.returncode} while waiting for {what}")
        if time.monotonic() > end:
            raise _GivenUp(f"not within {patience_s:.0f} s: {what}")
        time.sleep(LOOK_S)
    return seen


@contextmanager
def _temporary_folder(slurm_job: str) -> Iterator[str]:
    """A short path, for the sockets in it: AF_UNIX takes 107 characters."""
    path = tempfile.mkdtemp(prefix=f"cs-{slurm_job}-", dir="/tmp")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _family() -> Iterator[None]:
    """Whatever this process starts inside, and all that descends from it, has ended afterwards."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end_descendants()


def _end_descendants() -> None:
    """All that descends from this process has ended: asked first, made to after five seconds."""
    for signum, patience_s in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        end = time.monotonic() + patience_s
        _signal_descendants(signum)
        while _has_children() and time.monotonic() < end:
            time.sleep(0.1)
            if signum == signal.SIGKILL:  # orphans that have come to us meanwhile
                _signal_descendants(signum)


def _signal_descendants(signum: int) -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            process.send_signal(signum)


def _has_children() -> bool:
    """Whether any child lives; those that have ended are taken note of."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
