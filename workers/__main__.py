"""`python -m workers JOB.json`: run one job; the exit code says how it ended (`workers.progress`)."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from workers.progress import EXIT_BAD_INPUT


def main(arguments: list[str]) -> int:
    """The exit code of the job in the file that `arguments` name."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m workers JOB.json\n")
        return 2
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    from workers.job import run_job  # torch is imported only once the arguments are right

    try:
        return run_job(Path(arguments[0]))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{arguments[0]}: {error}\n")
        return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
