"""Sweeps as earlier versions left them (tests/data): copied, as users' folders are when a new version meets them.

schema_1/previous   finished: Boundless DAS and interchange, two layers, one further setting
schema_1/halfway    cancelled in training: no rows, one checkpoint

The model, the machine and the Python that their files name exist nowhere any more.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).parent / "data"
SWEEPS: Final = ("schema_1/previous", "schema_1/halfway")


def copied(sweep: str, target: Path) -> Path:
    """A copy of the sweep (as in `SWEEPS`) below the folder `target`, with its own name."""
    return Path(shutil.copytree(DATA / sweep, target / Path(sweep).name))
