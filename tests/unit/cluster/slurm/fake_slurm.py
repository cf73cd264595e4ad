"""SLURM's commands as scripts: they answer in the place of the real ones as these do not on demand."""

from __future__ import annotations

from pathlib import Path

from cluster.backend import JobRequest, JobState
from cluster.slurm import SlurmCluster

SQUEUE_COLUMNS = "JOBID|STATE|REASON|NODELIST|TIME|RESTART_COUNT|END_TIME|START_TIME|NAME|"
SACCT_COLUMNS = "JobID|State|ExitCode|NodeList|ElapsedRaw|End|JobName"
CONFIG = "MaxArraySize = 4\nSLURM_VERSION = 22.05.8"
PARTITION = "PartitionName=gpu Default=YES MaxTime=UNLIMITED State=UP"
HEADERS = {
    "squeue": f'case "$*" in *-h*) ;; *-O*) echo "{SQUEUE_COLUMNS}";; *) echo ARRAY_JOB_ID;; esac\n',
    "sacct": f'case "$*" in *-n*) ;; *) echo "{SACCT_COLUMNS}";; esac\n',
}
NODE = "NodeName=node1 NodeHostName=localhost"


class FakeSlurm:
    """A folder of scripts that stand for SLURM's commands, and a note of every call."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.calls_file = folder / "calls"
        self.accepted = folder / "accepted"  # one line for each array: its id and name
        self.bin.mkdir()
        self.says("sbatch", self.accept('echo "Submitted batch job $id"'))
        self.says("scontrol", "")
        self.says("squeue", self.find_by_name)
        self.says("sacct", "")
        self.says("sacctmgr", "")
        self.says("scancel", "")
        (self.bin / "srun").symlink_to("/bin/true")

    def says(self, program: str, shell: str, *, header: bool = True) -> None:
        """From now on `program` runs these shell lines, below the header that a real squeue or sacct prints."""
        show = f'case "$*" in "show config") echo "{CONFIG}"; exit;; "show partition"*) echo "{PARTITION}"; exit;; '
        show += f'"show nodes"*) echo "{NODE}"; exit;; esac\n'
        note = f'echo "{program} $*" >> {self.calls_file}\n'
        path = self.bin / program
        path.write_text(
            f"#!/bin/sh\n{note}{show if program == 'scontrol' else ''}{HEADERS.get(program, '') * header}{shell}\n"
        )
        path.chmod(0o755)

    def accept(self, answer: str) -> str:
        """Shell lines of an sbatch that accepts an array and then does `answer`; a trial run is only said yes to."""
        return (
            'case "$1" in --test-only) exit 0;; esac\n'
            'name=$(sed -n "s/^#SBATCH --job-name=//p" "$1")\n'
            f"id=$(( 100 + $(cat {self.accepted} 2>/dev/null | wc -l) ))\n"
            f'echo "$id $name" >> {self.accepted}\n'
            f"{answer}"
        )

    @property
    def find_by_name(self) -> str:
        """Shell lines of a squeue that knows accepted arrays by their names."""
        return f'for last; do :; done; grep " $last$" {self.accepted} 2>/dev/null | cut -d" " -f1; exit 0'

    def calls(self, program: str) -> list[str]:
        """The calls of a program so far."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return [line for line in lines if line.split()[0] == program]

    def arrays(self) -> list[str]:
        """The names of the arrays that were accepted."""
        return [line.split()[1] for line in self.accepted.read_text().splitlines()] if self.accepted.exists() else []


def requests(n: int, folder: Path) -> list[JobRequest]:
    """Small jobs."""
    return [JobRequest(name=f"j{i}", label="", argv=("true",), log=folder / f"j{i}.log", time_s=60.0) for i in range(n)]


def states(cluster: SlurmCluster, handles: dict[str, str]) -> list[JobState]:
    """What a poll says, in order."""
    statuses = cluster.poll(list(handles.values()))
    return [statuses[handle].state for handle in handles.values()]
