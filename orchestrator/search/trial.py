"""One trial of a search over a method's settings: `python -m orchestrator.search.trial FOLDER/trials/ID`.

The folder is given with `settings.json` in it. It becomes a sweep's folder with one job, the search's own
(`FOLDER/job.json`) under these settings, and this process becomes that job's worker. Called again, it continues.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cluster.files import get_record
from workers.files.folder import SweepFolder, replace_file, take_over_files
from workers.files.job import Cell, Cohort, Job
from workers.methods.settings import method_settings

JOB_FILE: Final = "job.json"  # in the search's folder; its `eval_every` is set for each trial
N_EVALUATIONS: Final = 9  # per training, spread evenly
CHECKPOINT_EVERY_S: Final = 10.0
HEARTBEAT_S: Final = 0.5


def main(arguments: Sequence[str]) -> int:
    """Never returns when all is well: the process becomes the worker."""
    root = Path(arguments[0])
    base = Job.load(root.parents[1] / JOB_FILE)
    settings = get_record(root / "settings.json", dict[str, Any])
    if settings is None:
        sys.exit(f"{root / 'settings.json'}: missing or damaged; the search writes it before it starts the trial")
    job, folder = trial_job(base, settings, root), SweepFolder(root)
    folder.make()
    take_over_files(folder, base.sweep_folder)
    replace_file(folder.job_file(job.job), job.to_json())
    os.execv(sys.executable, [sys.executable, "-P", "-m", "workers", str(folder.job_file(job.job))])


def trial_job(base: Job, settings: Mapping[str, Any], folder: Path) -> Job:
    """The job `base` in another folder and with these settings of its method. Raises: MethodError."""
    options = replace(
        base.options,
        checkpoint_every_s=min(base.options.checkpoint_every_s, CHECKPOINT_EVERY_S),
        heartbeat_s=min(base.options.heartbeat_s, HEARTBEAT_S),
        save_alignments="none",
    )
    cohorts = tuple(_under(cohort, settings) for cohort in base.cohorts)
    return replace(base, folder=str(folder), options=options, cohorts=cohorts, settings=())


def _under(cohort: Cohort, settings: Mapping[str, Any]) -> Cohort:
    """The cohort with other settings of its method; its cells are then other cells."""
    method = {key: value for key, value in cohort.stream.method.items() if key != "name"} | dict(settings)
    batch_size, n_train = int(method["batch_size"]), int(cohort.stream.data["n_train"])
    n_steps = int(method["epochs"]) * -(-n_train // min(batch_size, n_train))
    method["eval_every"] = max(1, n_steps // N_EVALUATIONS)
    stream = replace(cohort.stream, method=method_settings(str(cohort.stream.method["name"]), method))
    cells = tuple(replace(cell, key=Cell(stream=stream, place=cell.place).key()) for cell in cohort.cells)
    return replace(cohort, stream=stream, cells=cells)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
