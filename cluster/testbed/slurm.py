"""A real SLURM cluster on this one machine: two nodes with eight pretend GPUs each, accounting, preemption, requeue.

    python -m cluster.testbed slurm up DIR              install what is missing, start what does not run
    eval "$(python -m cluster.testbed slurm env DIR)"   let sbatch, squeue, ... of this shell speak to it
    python -m cluster.testbed slurm status DIR          daemons and nodes
    python -m cluster.testbed slurm fault DIR FAULT [NODE]
    python -m cluster.testbed slurm down DIR            cancel its jobs, stop its daemons and no others

Faults of a node:     die (power failure)   partition (its daemon is killed, jobs run on unseen)   freeze   thaw
                      start (again)   fail (given up at once)   preempt (by a job of higher rank)
Faults of the centre: controller-down   controller-up   database-down   database-up

All that it keeps lies in DIR, all that it starts carries `CAUSALSWEEP_TESTBED=DIR` in its environment, and its daemons
listen on 127.0.0.1. A GPU here is a link to /dev/null: SLURM hands it out, nothing computes on it.
"""

from __future__ import annotations

import argparse
import fcntl
import secrets
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from cluster.files import get_json, put_json
from cluster.process import ProcessId
from cluster.testbed.machine import Process, are_free, free_ports, kill, send, stop
from cluster.testbed.slurm_config import Layout
from cluster.testbed.slurm_daemons import Daemons, TestbedError, program_of
from cluster.testbed.slurm_packages import PackagesMissing, install_missing

MAX_PATH: Final = 60  # characters: slurmstepd's sockets lie 40 below, and AF_UNIX takes 107
N_PORTS: Final = 20
NODE_FAULTS: Final = ("die", "partition", "freeze", "thaw", "start", "fail", "preempt")
CENTRE_FAULTS: Final = ("controller-down", "controller-up", "database-down", "database-up")
USABLE: Final = {"idle", "mixed", "allocated", "completing"}


@dataclass(frozen=True, slots=True)
class SlurmTestbed:
    """The cluster in a folder. Making the object touches nothing."""

    folder: Path

    def __post_init__(self) -> None:
        """Raises: TestbedError (the path does not do)."""
        path = str(self.folder.resolve())
        object.__setattr__(self, "folder", Path(path))
        if len(path) > MAX_PATH or set(path) & set(" ,'\"="):
            raise TestbedError(
                f"{path}: SLURM's sockets below it need a path of at most {MAX_PATH} characters without blanks,"
                " commas, '=' or quotes"
            )

    @property
    def conf(self) -> Path:
        """The configuration that SLURM_CONF names."""
        return self._daemons.conf

    @property
    def layout(self) -> Layout:
        """What it looks like. Raises: TestbedError (never brought up)."""
        raw = get_json(self.folder / "testbed.json")
        if raw is None:
            raise TestbedError(f"{self.folder}: no cluster was ever brought up here; `slurm up` does")
        return Layout(**raw)

    def env(self) -> dict[str, str]:
        """What to add to the environment of a process that is to use the cluster."""
        return {"SLURM_CONF": str(self.conf)}

    # ------------------------------------------------------------------ up and down

    def up(self, *, n_nodes: int = 2, n_gpus: int = 8, max_array_size: int = 1001) -> list[str]:
        """Start what does not run, thaw what hangs, wait until every node takes jobs; the packages it installed.

        Raises: TestbedError, PackagesMissing.
        """
        with self._lock():
            installed = install_missing(self.folder / "apt.log")
            self._lay_out(n_nodes=n_nodes, n_gpus=n_gpus, max_array_size=max_array_size)
            self._daemons.start_munge()
            self._daemons.start_database()
            self._daemons.start_accounting()
            self._daemons.start_controller()
            for node in self.layout.nodes:
                self._daemons.start_node(node)
            self._wait_for_nodes()
            return installed

    def down(self) -> None:
        """Cancel the jobs, then stop every process of this cluster."""
        with self._lock():
            self._cancel_jobs()
            # one after another: a daemon that ends writes to the next one
            for name in ("slurmd", "slurmstepd", "slurmctld", "slurmdbd", "mariadbd"):
                stop(one.identity for one in self._processes() if program_of(one) == name)
            stop(one.identity for one in self._processes())

    def status(self) -> dict[str, str]:
        """`up` or `down` for each daemon, and SLURM's own word for each node."""
        found = {name: "up" if self._daemons.find(name) else "down" for name in ("munged", "mariadbd", "slurmdbd")}
        found["slurmctld"] = "up" if self._daemons.find("slurmctld") else "down"
        nodes = self._daemons.run("sinfo", "-h", "-N", "-p", "gpu", "-o", "%N %T") if found["slurmctld"] == "up" else ""
        states = dict(line.split() for line in nodes.splitlines())
        return found | {node: states.get(node, "unknown") for node in self.layout.nodes}

    # ------------------------------------------------------------------ faults

    def die(self, node: str) -> None:
        """Power failure: SIGKILL to all that runs on the node, and it has ended."""
        for _ in range(3):  # what was being started meanwhile
            kill(process.identity for process in self._daemons.processes(self._known(node)))

    def partition(self, node: str) -> None:
        """The node's daemon is killed: its jobs run on unseen, and SLURM starts them elsewhere too."""
        stop([self._node_daemon(node)], patience_s=0)

    def freeze(self, node: str) -> None:
        """Hang the node's daemon; its jobs run on."""
        send(self._node_daemon(node), signal.SIGSTOP)

    def thaw(self, node: str) -> None:
        """Let a hung daemon continue."""
        send(self._node_daemon(node), signal.SIGCONT)

    def start(self, node: str) -> None:
        """Start the daemon of a node that died or was cut off."""
        self._daemons.start_node(self._known(node))

    def fail(self, node: str) -> None:
        """Have the controller give the node up now rather than after SlurmdTimeout; it comes back by itself."""
        self._daemons.run("scontrol", "update", f"nodename={node}", "state=down", "reason=fault")

    def preempt(self, node: str, *, seconds: int = 60) -> str:
        """The id of a job of higher rank that takes the whole node for so long."""
        gpus = f"--gres=gpu:{self.layout.n_gpus}"
        submit = ("sbatch", "--parsable", "--partition=high", f"--nodelist={node}", gpus, "--time=5")
        command = [*submit, "--output=/dev/null", "--job-name=preemptor", f"--wrap=sleep {seconds}"]
        return self._daemons.run(*command).strip()

    def controller_down(self) -> None:
        """SIGKILL to slurmctld: what it had not saved, the last seconds, is forgotten."""
        self._kill("slurmctld")

    def controller_up(self) -> None:
        """Start slurmctld again."""
        self._daemons.start_controller()

    def database_down(self) -> None:
        """SIGKILL to slurmdbd: no sacct."""
        self._kill("slurmdbd")

    def database_up(self) -> None:
        """Start slurmdbd again."""
        self._daemons.start_accounting()

    # ------------------------------------------------------------------ files

    def _lay_out(self, *, n_nodes: int, n_gpus: int, max_array_size: int) -> None:
        """Folders, key, devices and configuration; what runs with another configuration is stopped first."""
        raw = get_json(self.folder / "testbed.json")
        old = Layout(**raw) if raw else None
        base_port = old.base_port if old else free_ports(N_PORTS)
        if not self._processes() and not are_free(base_port, N_PORTS):
            base_port = free_ports(N_PORTS)
        layout = replace(old or Layout(base_port=base_port), base_port=base_port)
        layout = replace(layout, n_nodes=n_nodes, n_gpus=n_gpus, max_array_size=max_array_size)
        for name in ("etc", "munge", "log", "run", "dev", "spool/controller", *(f"spool/{n}" for n in layout.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        files = {self.folder / "etc" / name: text for name, text in layout.files(self.folder).items()}
        if any(not path.exists() or path.read_text() != text for path, text in files.items()):
            stop(process.identity for process in self._processes())
            put_json(self.folder / "testbed.json", asdict(layout))
            for path, text in files.items():
                path.write_text(text)
                path.chmod(0o600 if path.name == "slurmdbd.conf" else 0o644)  # slurmdbd insists
        for gpu in range(n_gpus):
            device = self.folder / "dev" / f"nvidia{gpu}"
            if not device.is_symlink():
                device.symlink_to("/dev/null")  # a character device is what gres.conf needs; the number becomes the id
        key = self.folder / "munge" / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(secrets.token_bytes(128))

    @property
    def _daemons(self) -> Daemons:
        return Daemons(self.folder)

    def _processes(self) -> list[Process]:
        return self._daemons.all_processes(self._node_names())

    def _known(self, node: str) -> str:
        if node not in self.layout.nodes:
            raise TestbedError(f"{node}: no such node; there are {', '.join(self.layout.nodes)}")
        return node

    def _node_names(self) -> list[str]:
        raw = get_json(self.folder / "testbed.json")
        return Layout(**raw).nodes if raw else []

    def _node_daemon(self, node: str) -> ProcessId:
        daemon = self._daemons.find("slurmd", node)
        if daemon is None:
            raise TestbedError(f"{node} has no daemon: it died or was cut off; `fault start {node}` brings it back")
        return daemon

    def _kill(self, program: str) -> None:
        daemon = self._daemons.find(program)
        if daemon is None:
            raise TestbedError(f"{program} does not run")
        stop([daemon], patience_s=0)

    def _wait_for_nodes(self) -> None:
        names = self.layout.nodes
        states: dict[str, str] = {}
        for attempt in range(200):
            with suppress(TestbedError):  # a client may be cut off while the controller starts
                states = self.status()
            if all(states.get(node) in USABLE for node in names):
                return
            if attempt % 20 == 19:  # drained, or down since an earlier fault
                self._daemons.attempt("scontrol", "update", f"nodename={','.join(names)}", "state=resume")
            time.sleep(0.1)
        raise TestbedError(f"nodes cannot be used: {states}; see {self.folder}/log")

    def _cancel_jobs(self) -> None:
        """Empty the queue, so that nothing is started again at the next `up`."""
        for _ in range(100):
            jobs = self._daemons.attempt("squeue", "-h", "-o", "%F").split() if self._daemons.find("slurmctld") else []
            if not jobs:
                return
            self._daemons.attempt("scancel", "--signal=KILL", "--full", *set(jobs))
            self._daemons.attempt("scancel", *set(jobs))
            time.sleep(0.1)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def main(arguments: Sequence[str]) -> int:
    """The exit code of one call of the command line: 0 done, 1 not up or not done, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m cluster.testbed slurm", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("up", "down", "status", "env", "fault"):
        command = commands.add_parser(name)
        command.add_argument("folder", type=Path)
        if name == "up":
            command.add_argument("--nodes", type=int, default=2)
            command.add_argument("--gpus", type=int, default=8, help="pretend GPUs a node")
            command.add_argument("--max-array-size", type=int, default=1001)
        if name == "fault":
            command.add_argument("fault", choices=NODE_FAULTS + CENTRE_FAULTS)
            command.add_argument("node", nargs="?", default="")
    chosen = parser.parse_args(arguments)
    if chosen.command == "fault" and (chosen.fault in NODE_FAULTS) != bool(chosen.node):
        parser.error(f"{chosen.fault} {'needs a NODE' if chosen.fault in NODE_FAULTS else 'takes no NODE'}")
    try:
        return _do(SlurmTestbed(chosen.folder), chosen)
    except (TestbedError, PackagesMissing) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _do(testbed: SlurmTestbed, chosen: argparse.Namespace) -> int:
    match chosen.command:
        case "up":
            installed = testbed.up(n_nodes=chosen.nodes, n_gpus=chosen.gpus, max_array_size=chosen.max_array_size)
            sys.stdout.write(f"installed: {' '.join(installed)}\n" if installed else "")
            sys.stdout.write(
                f"{chosen.nodes} nodes x {chosen.gpus} GPUs. To use them:\n  export SLURM_CONF={testbed.conf}\n"
            )
        case "down":
            testbed.down()
        case "status":
            states = testbed.status()
            sys.stdout.write("".join(f"{name:<10} {state}\n" for name, state in states.items()))
            return 0 if set(states.values()) <= USABLE | {"up"} else 1
        case "env":
            sys.stdout.write("".join(f"export {name}={value}\n" for name, value in testbed.env().items()))
        case "fault":
            done = getattr(testbed, chosen.fault.replace("-", "_"))(*filter(None, [chosen.node]))
            sys.stdout.write(f"job {done}\n" if done else "")
    return 0
