"""A real Ray cluster on this one machine: two raylets with eight logical GPUs each, and the dashboard on 127.0.0.1.

    python -m cluster.testbed ray up DIR [--nodes N]   start what does not run; prints the address for `--on ray`
    python -m cluster.testbed ray status DIR           the nodes that the head counts as alive
    python -m cluster.testbed ray fault DIR WHAT [K]   worker | raylet | node | head | back | freeze | thaw, on node K
    python -m cluster.testbed ray down DIR             stop its processes, and no others

Each cluster has a folder, a block of ports and loopback addresses of its own, chosen at the first `up` and kept in
`DIR/testbed.json`; `up` with more nodes than run adds nodes to it. Its processes are known by `CAUSALSWEEP_TESTBED=DIR`
in their environment, which all that it starts inherits: so `down` finds workers and the jobs' own processes too, and
never one of another cluster (`ray stop` would end every Ray process of the machine). A GPU here is a number that Ray
hands out; nothing computes on it.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster.files import get_json, put_json
from cluster.process import ProcessId
from cluster.testbed.machine import MARK, Process, are_free, family, free_ports, send, stop

IDLE: Final = ("ray::IDLE", "ray::JobSupervisor", "ray::_", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
FIRST: Final = {"n_nodes": 2, "n_gpus": 8}  # a cluster without given numbers
N_PORTS: Final = 40  # in a cluster's block: head, dashboard, Ray client, then ten of a kind, one a node
MAX_PATH: Final = 45  # characters: Ray's sockets lie 60 below its temporary folder, and AF_UNIX takes 107
N_TRIES: Final = 3  # to start a node: a raylet dies when its agents, Python processes, take 15 s to tell their ports
OBJECT_STORE_BYTES: Final = 80 * 2**20  # the least that Ray accepts is 75 MiB
SETTINGS: Final = {
    "RAY_AUTH_MODE": "disabled",  # said aloud: unset, a ~/.ray/auth_token that some run left turns the token on
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",  # two cores: no process ahead of need
    "RAY_prestart_worker_first_driver": "0",
    "RAY_worker_niceness": "0",  # not 15: beside other tests the jobs would get no processor
    "RAY_worker_register_timeout_seconds": "180",
    "RAY_raylet_start_wait_time_s": "60",
    "RAY_health_check_period_ms": "1000",  # a lost node is seen after 5 s rather than 15 s
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}


class TestbedError(Exception):
    """The cluster could not be brought up; the message says what to mend."""

    __test__ = False  # pytest: not a class of tests


@dataclass(frozen=True, slots=True, kw_only=True)
class RayTestbed:
    """One cluster. Making the object starts nothing; `up` does, and remembers the layout in the folder."""

    folder: Path
    base_port: int
    n_nodes: int
    n_gpus: int
    n_cpus: int = 8

    @classmethod
    def at(cls, folder: Path, *, n_nodes: int | None = None, n_gpus: int | None = None) -> RayTestbed:
        """The cluster of this folder, laid out now if it is a new one, or if another one took its ports while it was
        down; None: as many as before. Nodes can be added while it is up.

        Raises: TestbedError (path too long; what is up has more nodes, or other GPUs).
        """
        folder = folder.resolve()
        if len(str(folder)) > MAX_PATH:
            raise TestbedError(
                f"{folder}: {len(str(folder))} characters; Ray's sockets below it need a path of at most {MAX_PATH}"
            )
        before, is_up = get_json(folder / "testbed.json"), bool(family(f"{MARK}={folder}"))
        given = {"n_nodes": n_nodes, "n_gpus": n_gpus}
        layout = FIRST | (before or {}) | {name: number for name, number in given.items() if number is not None}
        if before and is_up and (layout["n_nodes"] < before["n_nodes"] or layout["n_gpus"] != before["n_gpus"]):
            raise TestbedError(
                f"{folder}: {before['n_nodes']} nodes x {before['n_gpus']} GPUs are up, and only nodes can be added; "
                "`ray down` ends them"
            )
        if before is None or not (is_up or are_free(before["base_port"], N_PORTS)):
            layout["base_port"] = free_ports(N_PORTS)
        if layout != before:
            put_json(folder / "testbed.json", layout)
        return cls(folder=folder, **layout)

    @property
    def address(self) -> str:
        """The dashboard and Jobs API: what `ray: {address: ...}` of a spec takes."""
        return f"http://127.0.0.1:{self.base_port + 1}"

    @property
    def gcs(self) -> str:
        """The head's own address, for drivers."""
        return f"{self.ip(0)}:{self.base_port}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Where each node's metrics can be scraped, HOST:PORT."""
        return tuple(f"{self.ip(node)}:{self.base_port + 20 + node}" for node in range(self.n_nodes))

    @property
    def temp(self) -> Path:
        """Ray's temporary folder: sockets and logs."""
        return self.folder / "s"

    def ip(self, node: int) -> str:
        """A loopback address of its own for each node: two nodes of one address look alike, and 127.0.0.1 is
        rewritten by Ray to the machine's own."""
        return f"127.0.1.{node + 1}"

    def up(self) -> None:
        """Start the nodes that are not alive, and wait until the dashboard counts them all. Raises: TestbedError."""
        with self._lock():
            if not (self._alive() and self._has_raylet(0)):
                stop(self.processes())  # what a dead head leaves behind would hold its ports
                shutil.rmtree(self.temp, ignore_errors=True)
                self._start(0)
            for node in range(1, self.n_nodes):
                if not self._has_raylet(node):
                    stop(self.processes(node))
                    self._start(node)
            deadline = time.monotonic() + 60
            while len(self._alive()) < self.n_nodes:
                if time.monotonic() > deadline:
                    raise TestbedError(f"only {self._alive()} of {self.n_nodes} nodes after 60 s; logs in {self.temp}")
                time.sleep(0.2)

    def down(self) -> int:
        """The number of processes stopped: all that this cluster started, and no others."""
        with self._lock():
            found = self.processes()
            stop(found)
            return len(found)

    def status(self) -> list[str]:
        """The addresses of the nodes that the head counts as alive; none where there is no head."""
        return self._alive()

    def processes(self, node: int | None = None) -> list[ProcessId]:
        """The processes of the whole cluster, or of one node, the jobs' own included."""
        return [process.identity for process in self._family(node)]

    # ------------------------------------------------------------------ faults

    def kill_worker(self, node: int | None = None) -> int:
        """The pid of a process that ran a task, now killed by SIGKILL. Raises: TestbedError (none runs)."""
        for process in self._family(node):
            if process.command.startswith("ray::") and not process.command.startswith(IDLE):
                send(process.identity, signal.SIGKILL)
                return process.identity.pid
        raise TestbedError("no task runs there")

    def kill_node(self, node: int) -> None:
        """Power failure of a node: SIGKILL to its raylet, its workers and their jobs. Node 0 is the head."""
        for process in self.processes(node):
            send(process, signal.SIGKILL)

    def kill_raylet(self, node: int) -> None:
        """SIGKILL to the raylet alone: its workers notice and end by themselves."""
        send(self._raylet(node), signal.SIGKILL)

    def start_head_again(self) -> None:
        """A new head at the old address while the other nodes live on, as a service manager starts one. It remembers
        nothing. Raises: TestbedError."""
        with self._lock():
            stop(self.processes(0))
            # where this file names the address, `ray start` takes another node's raylet for the head's
            (self.temp / "ray_current_cluster").unlink(missing_ok=True)
            self._start(0)

    def freeze(self, node: int) -> None:
        """Hang a node's raylet (SIGSTOP): its workers continue."""
        send(self._raylet(node), signal.SIGSTOP)

    def thaw(self, node: int) -> None:
        """Let a hung raylet continue."""
        send(self._raylet(node), signal.SIGCONT)

    # ------------------------------------------------------------------ inner workings

    def _has_raylet(self, node: int) -> bool:
        try:
            return self._raylet(node).is_alive()
        except TestbedError:
            return False

    def _family(self, node: int | None) -> list[Process]:
        return family(f"{MARK}={self.folder}" if node is None else f"{MARK}_NODE={self.folder}:{node}")

    def _raylet(self, node: int) -> ProcessId:
        for process in self._family(node):
            if "/raylet/raylet " in process.command:
                return process.identity
        raise TestbedError(f"node {node} has no raylet")

    def start_command(self, node: int) -> list[str]:
        """What starts a node; one above `n_nodes` joins too."""
        base = self.base_port
        head = ["--head", "--port", str(base), "--dashboard-host", "127.0.0.1", "--dashboard-port", str(base + 1)]
        head += ["--ray-client-server-port", str(base + 2), "--temp-dir", str(self.temp)]
        # one log monitor a folder: with two, every line would arrive twice
        joining = ["--address", self.gcs, "--include-log-monitor", "false"]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *(joining if node else head)]
        command += ["--node-ip-address", self.ip(node), "--node-name", f"node-{node}"]
        command += ["--num-cpus", str(self.n_cpus), "--num-gpus", str(self.n_gpus), "--memory", str(8 * 2**30)]
        command += ["--object-store-memory", str(OBJECT_STORE_BYTES), "--disable-usage-stats"]
        command += ["--dashboard-agent-listen-port", str(base + 10 + node)]
        return [*command, "--metrics-export-port", str(base + 20 + node)]

    def environment(self, node: int) -> dict[str, str]:
        """The environment of a node. Without CUDA_VISIBLE_DEVICES: Ray would refuse more GPUs than it names; and
        without the RAY_* of another cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "CUDA_VISIBLE"))}
        return kept | SETTINGS | {MARK: str(self.folder), f"{MARK}_NODE": f"{self.folder}:{node}"}

    def _start(self, node: int) -> None:
        """Start a node, again where the machine was too busy. Raises: TestbedError."""
        log = self.folder / f"node-{node}.log"
        for _ in range(N_TRIES):
            with open(log, "wb") as output:
                code = subprocess.call(
                    self.start_command(node),
                    env=self.environment(node),
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            if not code:
                return
            stop(self.processes(node))
        raise TestbedError(f"`ray start` of node {node} ended with {code}:\n{log.read_text(errors='replace')}")

    def _alive(self) -> list[str]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.address}/api/v0/nodes?detail=1", timeout=5) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
        except (OSError, ValueError):
            return []
        return sorted({node["node_ip"] for node in nodes if node["state"] == "ALIVE"})

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def main(arguments: Sequence[str]) -> int:
    """The exit code of one call of the command line: 0 done, 1 not there or not up, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m cluster.testbed ray", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "down", "status", "fault"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        if name == "up":
            command.add_argument("--nodes", type=int, choices=range(1, 11), metavar="N", help="2, or as many as before")
            command.add_argument("--gpus", type=int, help="logical GPUs a node: 8, or as many as before")
        if name == "fault":
            command.add_argument("what", choices=("worker", "raylet", "node", "head", "back", "freeze", "thaw"))
            command.add_argument("node", type=int, nargs="?", default=1)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command != "up" and not (chosen.folder / "testbed.json").exists():
            raise TestbedError(f"{chosen.folder}: no cluster was ever brought up here; `ray up` does")
        bed = RayTestbed.at(chosen.folder, n_nodes=getattr(chosen, "nodes", None), n_gpus=getattr(chosen, "gpus", None))
        return _run(bed, chosen)
    except TestbedError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _run(bed: RayTestbed, chosen: argparse.Namespace) -> int:
    match chosen.command:
        case "up":
            bed.up()
            sys.stdout.write(f"{bed.n_nodes} nodes x {bed.n_gpus} GPUs (head {bed.gcs})\naddress: {bed.address}\n")
        case "down":
            sys.stdout.write(f"stopped {bed.down()} processes\n")
        case "status":
            alive = bed.status()
            sys.stdout.write(f"{len(alive)} of {bed.n_nodes} nodes: {' '.join(alive)}\naddress: {bed.address}\n")
            return 0 if len(alive) == bed.n_nodes else 1
        case "fault":
            _fault(bed, chosen.what, chosen.node)
    return 0


def _fault(bed: RayTestbed, what: str, node: int) -> None:
    match what:
        case "worker":
            sys.stdout.write(f"killed {bed.kill_worker(node)}\n")
        case "raylet":
            bed.kill_raylet(node)
        case "node":
            bed.kill_node(node)
        case "head":
            bed.kill_node(0)
        case "back":
            bed.start_head_again()
        case "freeze":
            bed.freeze(node)
        case "thaw":
            bed.thaw(node)
