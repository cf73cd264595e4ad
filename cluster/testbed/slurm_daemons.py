"""The daemons of the pretend SLURM cluster: how each is started, found among all processes, and spoken to."""

from __future__ import annotations

import getpass
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.process import ProcessId
from cluster.testbed.machine import MARK, Process, family, send
from cluster.testbed.slurm_config import CLUSTER
from cluster.testbed.slurm_packages import SYSTEM_PATH


class TestbedError(Exception):
    """The cluster could not be brought up, or the fault not be done; the message says what to mend."""

    __test__ = False  # pytest: not a class of tests


@dataclass(frozen=True, slots=True)
class Daemons:
    """The daemons of the cluster in a folder; each is started only where it does not run."""

    folder: Path

    @property
    def conf(self) -> Path:
        """The configuration that SLURM_CONF names."""
        return self.folder / "etc" / "slurm.conf"

    def start_munge(self) -> None:
        """Authentication. Raises: TestbedError."""
        if self.find("munged"):
            return
        munge = self.folder / "munge"
        (munge / "munge.socket").unlink(missing_ok=True)
        options = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "munged.log"}
        options |= {"pid-file": "munged.pid", "seed-file": "munged.seed"}
        self._start("munged", "--force", *(f"--{name}={munge / file}" for name, file in options.items()))
        self._wait("munged", 10, "munge", "-n", "-S", str(munge / "munge.socket"))

    def start_database(self) -> None:
        """MariaDB, on a socket only. Raises: TestbedError."""
        if self.find("mariadbd"):
            return
        data, socket = self.folder / "mysql", self.folder / "run" / "mysql.sock"
        user = getpass.getuser()
        if not (data / ".installed").exists():
            options = ("--auth-root-authentication-method=socket", f"--auth-root-socket-user={user}", f"--user={user}")
            install = ("mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", *options)
            self.run(*install, "--skip-name-resolve", timeout_s=120)
            (data / ".installed").touch()
        settings = ["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--innodb-lock-wait-timeout=900"]
        settings += ["--innodb-flush-log-at-trx-commit=2", "--skip-log-bin", "--performance-schema=off"]
        files = (f"--datadir={data}", f"--socket={socket}", f"--log-error={self.folder}/log/mariadbd.log")
        self._start("mariadbd", "--no-defaults", f"--user={user}", "--skip-networking", *files, *settings)
        self._wait("mariadbd", 60, "mariadb", "--no-defaults", "-S", str(socket), "-e", "select 1")

    def start_accounting(self) -> None:
        """slurmdbd. Raises: TestbedError."""
        if not self.find("slurmdbd"):
            self._start("slurmdbd", "-D")
        self._wait("slurmdbd", 60, "sacctmgr", "-n", "show", "cluster")  # the database may have been started just now
        if CLUSTER not in self.run("sacctmgr", "-n", "-P", "show", "cluster", "format=cluster").split():
            self.run("sacctmgr", "-i", "add", "cluster", CLUSTER)

    def start_controller(self) -> None:
        """slurmctld. Raises: TestbedError."""
        if not self.find("slurmctld"):
            self._start("slurmctld", "-D")
            self._wait("slurmctld", 30, "sh", "-c", "scontrol ping | grep -q ' is UP'")

    def start_node(self, node: str) -> None:
        """A node's slurmd; one that was frozen continues."""
        if daemon := self.find("slurmd", node):
            send(daemon, signal.SIGCONT)
        else:
            self._start("slurmd", "-D", "-N", node, node=node)

    def _start(self, *command: str, node: str = "") -> None:
        """Start a daemon that is nobody's child."""
        env = self.env() | {MARK: str(self.folder)} | ({f"{MARK}_NODE": f"{self.folder}:{node}"} if node else {})
        log = shlex.quote(str(self.folder / "log" / f"{command[0]}.out"))
        line = f"setsid {shlex.join(command)} </dev/null >>{log} 2>&1 &"
        subprocess.run(["sh", "-c", line], env=env, cwd=self.folder, check=True)

    def find(self, program: str, node: str = "") -> ProcessId | None:
        """The running daemon of this name, of this node where it is one's own; None where it does not run."""
        marks = [f"{MARK}={self.folder}"] + ([f"{MARK}_NODE={self.folder}:{node}"] if node else [])
        return next((one.identity for one in family(*marks) if program_of(one) == program), None)

    def processes(self, *nodes: str) -> list[Process]:
        """What runs on these nodes: their daemons, the steps, and the jobs' own processes, orphans included."""
        found = [process for node in nodes for process in family(f"{MARK}_NODE={self.folder}:{node}")]
        for node in nodes:
            found += family(f"SLURM_CONF={self.conf}", f"SLURMD_NODENAME={node}")
        return found

    def all_processes(self, nodes: Iterable[str]) -> list[Process]:
        """What runs of the whole cluster."""
        return family(f"{MARK}={self.folder}") + self.processes(*nodes)

    # ------------------------------------------------------------------ commands

    def env(self) -> dict[str, str]:
        """The environment of daemons and commands: nothing of a job or another cluster."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
        socket = str(self.folder / "run" / "mysql.sock")
        return kept | {"SLURM_CONF": str(self.conf), "PATH": path, "LC_ALL": "C", "MYSQL_UNIX_PORT": socket}

    def run(self, *command: str, timeout_s: float = 30) -> str:
        """What a command prints. Raises: TestbedError."""
        ran = subprocess.run(
            command, env=self.env(), capture_output=True, text=True, timeout=timeout_s, check=False, cwd=self.folder
        )
        if ran.returncode:
            raise TestbedError(f"`{shlex.join(command)}` ended with {ran.returncode}: {ran.stderr.strip()}")
        return ran.stdout

    def attempt(self, *command: str) -> str:
        """What a command prints, nothing where it fails."""
        try:
            return self.run(*command)
        except (TestbedError, subprocess.TimeoutExpired):
            return ""

    def _wait(self, daemon: str, limit_s: float, *command: str) -> None:
        """Until `command` succeeds. Raises: TestbedError."""
        end = time.monotonic() + limit_s
        while subprocess.run(command, env=self.env(), capture_output=True, check=False).returncode:
            if time.monotonic() > end:
                raise TestbedError(f"{daemon} did not come up within {limit_s:.0f} s; see {self.folder}/log")
            time.sleep(0.05)


def program_of(process: Process) -> str:
    """`slurmd` of `/usr/sbin/slurmd -D -N node1`, `slurmstepd` of `slurmstepd: [4.batch]`."""
    words = process.command.split()
    return Path(words[0]).name.rstrip(":") if words else ""
