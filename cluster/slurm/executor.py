"""Sends job arrays through submitit, in a way that no death between two steps loses a job.

submitit sends an array first and puts the pickles of its tasks in place afterwards, from memory: when the sender dies
between, the tasks wait for a minute and fail. So an array is sent held (`--hold`), and a later process, which finds it
by its name, can put the same pickles in place and release it. All tasks of an array share one pickle: an importable
function and a path. The function finds its own task in the environment.

submitit's signal handlers give way to those of the function: it, not submitit, decides on checkpoint and requeue.
"""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError, JobPaths

from cluster.backend import ClusterUnavailable
from cluster.slurm.commands import failure, inherited_variables


class ArrayExecutor(submitit.SlurmExecutor):
    """submitit's executor, without what our own process inherited from a job that it runs in."""

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        unset = [word for name in inherited_variables() for word in ("-u", name)]
        return ["env", *unset, *super()._make_submission_command(submission_file_path)]


def send_array(folder: Path, n_tasks: int, options: Mapping[str, str | bool], setup: tuple[str, ...]) -> str:
    """The id of a new array of `n_tasks`, held, its tasks' files to lie in `folder`.

    Raises: Refused; ClusterUnavailable when it is not known whether the array was accepted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # exec: the batch step's process is Python itself, which so gets the signals; -P: a folder `cluster` where the user
    # happens to be is not taken for this package
    executor = ArrayExecutor(folder, python=f"exec {shlex.quote(sys.executable)} -P")
    executor.update_parameters(
        use_srun=False,
        stderr_to_stdout=True,
        wckey=None,
        array_parallelism=n_tasks,
        setup=list(setup),
        # submitit's spelling: its own settings of the same options must give way
        additional_parameters={name.replace("-", "_"): value for name, value in options.items()}
        | {"hold": True, "requeue": True},
    )
    executor.parameters["map_count"] = n_tasks
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
            return str(executor._submit_command(executor._submitit_command_str).job_id)
    except FailedJobError as error:
        raise failure("sbatch", str(error)) from None
    except FailedSubmissionError as error:  # an answer that holds no id
        raise ClusterUnavailable(str(error).partition("\n")[0]) from None


def place_tasks(folder: Path, job: str, n_tasks: int, function: Callable[[str], Any], argument: Path) -> None:
    """Put what each task of an array is to do where submitit looks for it. What lies there already is left."""
    pickle = folder / f"{secrets.token_hex(8)}.pkl"
    DelayedSubmission(function, str(argument)).dump(pickle)
    for task in range(n_tasks):
        with contextlib.suppress(FileExistsError):
            os.link(pickle, JobPaths(folder, job_id=f"{job}_{task}").submitted_pickle)
    pickle.unlink()
