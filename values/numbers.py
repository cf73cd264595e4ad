"""The kinds of numbers that a user may give, each with the bounds of its use: the one place for such bounds.

A key of a spec, a setting of a method, an option of a backend and a number of the command line has one of these types,
so none of them can be infinite, not a number, or larger than what it is used for can hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field

INT64_MAX: Final = 2**63 - 1  # for a column of the store, and for any whole number in a spec
MAX_COUNT: Final = 10**9
MAX_SECONDS: Final = 1e9  # 32 years; time.sleep and a timer hold no more than a few of these
LEAST_REAL: Final = 1e-30  # float32, in which methods train, holds no positive number below 1.2e-38
MAX_REAL: Final = 1e12  # its square is far from the largest float32, 3.4e38
MAX_NAME: Final = 150  # characters; a file's name holds 255 bytes, and a picture's has its method and scale beside it

Count = Annotated[int, Field(ge=1, le=MAX_COUNT, strict=True)]
CountOrNone = Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)]  # 0: none, or no limit
Seed = Annotated[int, Field(ge=-INT64_MAX - 1, le=INT64_MAX, strict=True)]

Threads = Annotated[int, Field(ge=1, le=1024, strict=True)]  # torch.set_num_threads starts as many at once
Workers = Annotated[int, Field(ge=1, le=10_000, strict=True)]  # processes of one machine
Cpus = Annotated[int, Field(ge=1, le=100_000, strict=True)]  # per SLURM job
Nodes = Annotated[int, Field(ge=1, le=100_000, strict=True)]  # the largest clusters have about 10,000
Gpus = Annotated[int, Field(ge=1, le=1024, strict=True)]  # per machine
GpusOrNone = Annotated[int, Field(ge=0, le=1024, strict=True)]  # 0: none
JobLimit = Annotated[int, Field(ge=0, le=MAX_COUNT, strict=True)]  # jobs at once; 0: none may start
WarningSeconds = Annotated[int, Field(ge=10, le=65_535, strict=True)]  # sbatch(1), --signal: 16 bits

Hours = Annotated[float, Field(gt=0, le=24 * 28, allow_inf_nan=False)]
GpuHours = Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]  # of a whole sweep
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=MAX_COUNT, allow_inf_nan=False)]  # for a resource of Ray

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
OpenShare = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Confidence = Annotated[float, Field(gt=0, le=1 - 1e-9, allow_inf_nan=False)]  # for 10^6 intervals at once, in float64


def _not_tiny(value: float) -> float:
    if 0 < value < LEAST_REAL:
        raise ValueError(f"{LEAST_REAL} or more")
    return value


Positive = Annotated[float, Field(gt=0, le=MAX_REAL, allow_inf_nan=False), AfterValidator(_not_tiny)]
NotNegative = Annotated[float, Field(ge=0, le=MAX_REAL, allow_inf_nan=False), AfterValidator(_not_tiny)]
Real = Annotated[float, Field(ge=-MAX_REAL, le=MAX_REAL, allow_inf_nan=False)]


def unbounded(value: Any) -> Iterator[tuple[tuple[int | str, ...], Any, str]]:
    """Where in a nest of mappings and lists a number lies that nothing can hold: its keys, the number, what would be
    right. A key of text that is no such number may hold anything."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from (((str(key), *rest), got, right) for rest, got, right in unbounded(item))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from (((index, *rest), got, right) for rest, got, right in unbounded(item))
    elif isinstance(value, float) and not math.isfinite(value):
        yield (), value, "a finite number"
    elif isinstance(value, int) and not -INT64_MAX - 1 <= value <= INT64_MAX:
        yield (), value, "a whole number of at most 64 bits"
