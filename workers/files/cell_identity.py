"""What every row of a cell has, whatever became of it: the columns of the shard that say which cell it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.files.job import Cohort, JobCell, canonical_json


def cell_identity(
    cohort: Cohort, cell: JobCell, setting: str, variables: Sequence[str], *, method: str
) -> dict[str, Any]:
    """The columns of a row of `cell` on `setting`; `method` is the method's label."""
    stream = cohort.stream
    return {
        "cell_key": cell.key,
        "experiment": cohort.experiment,
        "model_fingerprint": str(stream.model["fingerprint"]),
        "task": str(stream.task["name"]),
        "task_settings": canonical_json(dict(stream.task)),
        "hypothesis": stream.hypothesis,
        "variables": list(variables),
        "layer": cell.place.layer,
        "position": cell.place.position,
        "site": cell.place.site,
        "unit": cell.place.unit,
        "token": cell.token,
        "seed": stream.seed,
        "method": method,
        "method_settings": canonical_json(dict(stream.method)),
        "engine": stream.engine,
        "setting": setting,
        "status": "done",
    }
