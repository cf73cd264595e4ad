"""What two runs of a sweep are compared by, to the last bit."""

from __future__ import annotations

import pandas as pd

from orchestrator import Sweep
from workers.files.progress import Progress, read_progress
from workers.files.shard import RUN_COLUMNS


def science(rows: pd.DataFrame) -> pd.DataFrame:
    """The part of a sweep's rows that must be the same on every run, in one order."""
    columns = [name for name in rows.columns if name not in RUN_COLUMNS]
    return rows[columns].sort_values(["cell_key", "setting"]).reset_index(drop=True)


def assert_same_science(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Fails the test where the rows of two runs differ in anything but the run itself."""
    pd.testing.assert_frame_equal(science(found), science(expected), check_exact=True)


def attempts(sweep: Sweep) -> list[Progress]:
    """What every attempt wrote down of itself."""
    return [record for path in sweep.folder.progress.glob("*.json") if (record := read_progress(path))]
