"""`python -m workers JOB.json`: run one job; the exit code says how it ended (`workers.files.failure`)."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from workers.files.failure import FailureClass
from workers.files.job import Job
from workers.job.stop import StopRequest


def main(arguments: list[str]) -> int:
    """The exit code of the job in the file that `arguments` name."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m workers JOB.json\n")
        return 2
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = StopRequest()
    stop.install()
    try:
        job = Job.load(Path(arguments[0]))
        job.check_keys()
    except OSError as error:
        sys.stderr.write(f"{arguments[0]}: {error.strerror}\n")
        return FailureClass.BAD_INPUT.exit_code
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return FailureClass.BAD_INPUT.exit_code
    from workers.job.notifying import after_attempt
    from workers.job.run import run_job  # torch is imported only once there is a job to run

    code = run_job(job, stop)
    after_attempt(job)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
