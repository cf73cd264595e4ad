"""What a SLURM job prints before its jobs begin: the lines of `slurm.setup`, a prolog, a module, a container.

It goes to the task's own output file, which is passed on to the logs of the task's jobs. A line that fails ends the
SLURM job (`set -e`), and is written down as the end of each of its jobs: the user's setup failed, and no node.

`main` is called by the shell, with the chunk's file and an exit code, when the lines have ended it.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cluster.files import get_record
from cluster.process import EXIT_SETUP
from cluster.slurm.record import BatchFiles, Chunk, TaskRun

BEGIN: Final = "causalsweep: the jobs begin"  # below this line the task's own output is none of the setup's
_SUBMITIT: Final = "submitit INFO"
_KILLED: Final = 128  # a shell's exit code above it: a signal ended it, as at a cancel, and not its lines


def script(lines: Sequence[str], chunk_file: Path, *, may_fail: bool) -> tuple[str, ...]:
    """The user's lines for the batch script, so that their bad end is known; each must succeed unless it `may_fail`."""
    if not lines:
        return ()
    told = shlex.join([sys.executable, "-P", "-c", "from cluster.slurm.setup import main; main()", str(chunk_file)])
    trap = f'causalsweep_setup_ended() {{ code=$?; trap - EXIT; {told} "$code"; exit "$code"; }}'
    return (trap, "trap causalsweep_setup_ended EXIT", *(() if may_fail else ("set -e",)), *lines)


def pass_on(submission: BatchFiles, chunk: Chunk, environ: Mapping[str, str]) -> str:
    """What was printed since the task's last run, appended to the log of each of its jobs; empty where nothing was."""
    array, task = environ["SLURM_ARRAY_JOB_ID"], int(environ["SLURM_ARRAY_TASK_ID"])
    try:
        text = (submission.submitit / f"{array}_{task}_0_log.out").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = text.rpartition(f"{BEGIN}\n")[2].splitlines(keepends=True)
    printed = "".join(line for line in lines if not line.startswith(_SUBMITIT))
    requests = submission.requests()
    for index in chunk.indices(task) if printed.strip() else ():
        log = requests[index].log
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8") as file:
            file.write(printed)
    return printed


def ended(chunk_file: Path, code: int, environ: Mapping[str, str]) -> None:
    """Write down that the setup ended the SLURM job before its jobs began."""
    submission, chunk = BatchFiles(chunk_file.parents[1]), get_record(chunk_file, Chunk)
    if chunk is None:
        return
    printed = pass_on(submission, chunk, environ)
    if code > _KILLED:
        return
    last = next((line.strip() for line in reversed(printed.splitlines()) if line.strip()), "it printed nothing")
    indices = chunk.indices(int(environ["SLURM_ARRAY_TASK_ID"]))
    known, now = submission.runs(indices), time.time()
    for index in indices:
        if index in known and known[index].ended and not known[index].again and len(indices) > 1:
            continue  # it ended in an earlier run of the SLURM job that it shares
        run = TaskRun(
            node=environ.get("SLURMD_NODENAME", ""),
            gpu="",
            restart=int(environ.get("SLURM_RESTART_COUNT", "0")),
            started=now,
            ended=now,
            exit_code=EXIT_SETUP,
            error=f"slurm.setup ended with exit code {code}: {last}",
        )
        submission.put_run(index, run)


def main() -> None:
    """Called with the chunk's file and the shell's exit code."""
    ended(Path(sys.argv[1]), int(sys.argv[2]), os.environ)
