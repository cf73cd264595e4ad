"""The `slurm:` block: what a user may say of the jobs, checked before anything is sent, and sbatch's options of it."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cluster.backend import ClusterError, ClusterUsageError
from cluster.slurm.commands import ask
from cluster.slurm.parse import duration_s

OWN: Final = {
    "gpus": "GPUs of one SLURM job, N or TYPE:N (default 1); with more than 1 it runs as many jobs; 0: none",
    "cpus": "CPUs of one SLURM job (sbatch's cpus-per-task)",
    "time": "a time limit in place of the planner's estimate",
    "setup": "shell lines to run on the node before each SLURM job, e.g. `module load cuda`",
    "array_parallelism": "jobs of the sweep that run at once (default: as many as fit)",
    "max_submitted": "jobs that you may have in the queue, where SLURM does not say so itself",
    "warn_s": "seconds between the warning and the time limit or the preemption (default 120)",
    "avoid": "nodes not to use while there are others; causalsweep adds those on which workers died",
    "followup": "sbatch options for the small follow-up job of --auto, e.g. {partition: cpu}",
}
RESERVED: Final = {
    "array": "causalsweep makes the arrays; use array_parallelism",
    "job-name": "it carries the mark by which a submission is found again",
    "output": "each job has its own log below the sweep's logs/",
    "error": "each job has its own log below the sweep's logs/",
    "input": "jobs read nothing",
    "open-mode": "logs are appended to",
    "signal": "use warn_s",
    "requeue": "always on: a job goes on from its checkpoint",
    "no-requeue": "jobs must be requeued to go on from their checkpoints",
    "hold": "use `causalsweep hold`",
    "dependency": "use begin, or submit later",
    "nodes": "a job has one node",
    "ntasks": "a job has one task",
    "ntasks-per-node": "a job has one task",
    "cpus-per-task": "use cpus",
    "gres": "use gpus",
    "gpus-per-node": "use gpus",
    "gpus-per-task": "use gpus",
    "gpus-per-socket": "use gpus",
    "wrap": "causalsweep writes the script",
    "parsable": "causalsweep reads sbatch's answer",
    "quiet": "causalsweep reads sbatch's answer",
    "wait": "causalsweep never waits on the login node",
    "test-only": "use `causalsweep plan`",
    "clusters": "log in to the cluster that is to run the jobs",
    "export": "jobs need the environment that they were submitted from",
    "chdir": "jobs use absolute paths",
    "kill-on-invalid-dep": "jobs have no dependencies of yours",
}
_GPUS: Final = re.compile(r"(?:(?P<type>[A-Za-z][\w.-]*):)?(?P<n>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmOptions:
    """The block as checked. `sbatch` and `followup` hold options by sbatch's long names."""

    n_gpus: int = 1
    gpu_type: str = ""
    time_s: float = 0.0  # 0.0: the planner's
    setup: tuple[str, ...] = ()
    array_parallelism: int | None = None
    max_submitted: int | None = None
    warn_s: int = 120
    avoid: tuple[str, ...] = ()
    sbatch: Mapping[str, str | bool] = field(default_factory=dict)
    followup: Mapping[str, str | bool] = field(default_factory=dict)

    @property
    def n_slots(self) -> int:
        """The workers that one SLURM job runs side by side."""
        return max(1, self.n_gpus)

    def gres(self, n_gpus: int) -> dict[str, str]:
        """The option that asks for this many GPUs; none where the partition has no GPUs."""
        if self.n_gpus == 0 or n_gpus == 0:
            return {}
        kind = f":{self.gpu_type}" if self.gpu_type else ""
        return {"gres": f"gpu{kind}:{n_gpus}"}

    def time_minutes(self, time_s: float, most_s: float) -> int:
        """`--time` of jobs that take up to `time_s` in a partition that allows `most_s`: whole minutes, the warning
        included. A job that needs more goes on from its checkpoint."""
        return max(1, math.ceil(min(self.time_s or time_s + self.warn_s, most_s) / 60))


def parse_options(raw: Mapping[str, Any]) -> SlurmOptions:
    """The block as checked. Raises: ClusterUsageError naming the key, the value and what would be right."""
    if "warn_s" in raw and (not _is_count(raw["warn_s"]) or raw["warn_s"] < 10):
        raise _wrong("warn_s", raw["warn_s"], "whole seconds, 10 or more")
    for key in ("array_parallelism", "max_submitted"):
        if raw.get(key) is not None and not (_is_count(raw[key]) and raw[key] > 0):
            raise _wrong(key, raw[key], "a whole number of 1 or more")
    setup = raw.get("setup", ())
    if isinstance(setup, str) or not all(isinstance(line, str) for line in setup):
        raise _wrong("setup", setup, "a list of shell lines")
    avoid = raw.get("avoid", ())
    if isinstance(avoid, str) or not all(isinstance(node, str) for node in avoid):
        raise _wrong("avoid", avoid, "a list of nodes, by the names that `sinfo -N` shows")
    followup = raw.get("followup", {})
    if not isinstance(followup, Mapping):
        raise _wrong("followup", followup, "a mapping of sbatch options, such as {partition: cpu}")
    match = _GPUS.fullmatch(str(raw.get("gpus", 1)))
    if match is None:
        raise _wrong("gpus", raw["gpus"], "a number, or TYPE:NUMBER as in a100:8")
    passed = {"cpus-per-task": str(raw["cpus"])} if _positive(raw, "cpus") else {}
    return SlurmOptions(
        n_gpus=int(match["n"]),
        gpu_type=match["type"] or "",
        time_s=_time_s(raw.get("time")),
        setup=tuple(setup),
        array_parallelism=raw.get("array_parallelism"),
        max_submitted=raw.get("max_submitted"),
        warn_s=raw.get("warn_s", 120),
        avoid=tuple(avoid),
        sbatch=passed | _passed_through({key: value for key, value in raw.items() if key not in OWN}, "slurm"),
        followup=_passed_through(followup, "slurm.followup"),
    )


def _passed_through(raw: Mapping[str, Any], where: str) -> dict[str, str | bool]:
    """sbatch's own options, by their long names."""
    passed: dict[str, str | bool] = {}
    for key, value in raw.items():
        name = str(key).replace("_", "-").lstrip("-")
        if name in RESERVED:
            raise ClusterUsageError(f"{where}.{key}: cannot be set: {RESERVED[name]}")
        known = known_options()
        if known and name not in known:
            near = difflib.get_close_matches(name, [*OWN, *known], n=1)
            hint = f"did you mean {near[0]}?" if near else f"besides sbatch's own there are {', '.join(OWN)}"
            raise ClusterUsageError(f"{where}.{key}: sbatch has no such option; {hint}")
        if value is None or value is False:
            continue
        if not isinstance(value, bool | int | float | str) or "\n" in str(value):
            raise ClusterUsageError(f"{where}.{key}: {value!r}; it must be one line of text, a number or true")
        passed[name] = value if value is True else str(value)
    return passed


@functools.cache
def known_options() -> frozenset[str]:
    """The long options of the sbatch that is installed here; none where it cannot say (it then refuses by itself)."""
    try:
        return frozenset(re.findall(r"--([a-z][a-z-]+)", ask("sbatch", "--help", timeout_s=10)))
    except ClusterError:
        return frozenset()


def _time_s(value: Any) -> float:
    if value is None:
        return 0.0
    seconds = duration_s(str(value)) if not isinstance(value, bool) else 0.0
    if not 0.0 < seconds < math.inf:
        raise _wrong("time", value, "minutes, or HOURS:MINUTES:SECONDS in quotes, or DAYS-HOURS")
    return seconds


def _positive(raw: Mapping[str, Any], key: str) -> bool:
    if key in raw and not (_is_count(raw[key]) and raw[key] > 0):
        raise _wrong(key, raw[key], "a whole number of 1 or more")
    return key in raw


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(key: str, value: Any, right: str) -> ClusterUsageError:
    return ClusterUsageError(f"slurm.{key}: {value!r}; it must be {right}")
