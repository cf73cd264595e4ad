"""The `slurm:` block: what a user may say of the jobs, checked before anything is sent, and sbatch's options of it."""

from __future__ import annotations

import difflib
import functools
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, ConfigDict, Field

from cluster.backend import ClusterError
from cluster.options import Block, OptionError, checked
from cluster.slurm.commands import ask
from cluster.slurm.parse import duration_s
from values.numbers import Count, Cpus, GpusOrNone, Seconds, WarningSeconds

RESERVED: Final = {
    "array": "causalsweep makes the arrays; use array_parallelism",
    "job-name": "it carries the mark by which a submission is found again",
    "output": "each job has its own log below the sweep's logs/",
    "error": "each job has its own log below the sweep's logs/",
    "input": "jobs read nothing",
    "open-mode": "logs are appended to",
    "signal": "use warn_s",
    "requeue": "always on: a job resumes from its checkpoint",
    "no-requeue": "jobs must be requeued to resume from their checkpoints",
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
# What sbatch reads from the environment and is honoured here as well. Source: sbatch(1), INPUT ENVIRONMENT VARIABLES.
FROM_ENVIRONMENT: Final = {
    "ACCOUNT": "account",
    "PARTITION": "partition",
    "QOS": "qos",
    "RESERVATION": "reservation",
    "CONSTRAINT": "constraint",
    "WCKEY": "wckey",
}
log = logging.getLogger(__name__)
_GPUS: Final = re.compile(r"(?:(?P<type>[A-Za-z][\w.-]*):)?(?P<n>\d{1,9})")


def _gpus(value: Any) -> tuple[str, int]:
    match = _GPUS.fullmatch(str(value))
    if match is None:
        raise ValueError("a number, or TYPE:NUMBER as in a100:8")
    return match["type"] or "", int(match["n"])


def _time_s(value: Any) -> float:
    seconds = duration_s(str(value)) if not isinstance(value, bool) else 0.0
    if not 0.0 < seconds < math.inf:
        raise ValueError("minutes, or HOURS:MINUTES:SECONDS in quotes, or DAYS-HOURS")
    return seconds


def _lines(description: str) -> Any:
    return Field(strict=False, description=description)


class SlurmBlock(Block):
    """causalsweep's own options of the block; every other one is sbatch's."""

    model_config = ConfigDict(extra="allow")

    gpus: Annotated[tuple[str, GpusOrNone], BeforeValidator(_gpus)] = ("", 1)  # per SLURM job, N or TYPE:N; 0: none
    cpus: Cpus | None = None  # per SLURM job (sbatch's cpus-per-task)
    time: Annotated[Seconds, BeforeValidator(_time_s)] | None = None  # a limit in place of the planner's estimate
    setup: Annotated[tuple[str, ...], _lines("a list of shell lines")] = ()  # run on the node before each SLURM job
    setup_may_fail: bool = False  # the jobs begin whatever became of those lines
    array_parallelism: Count | None = None  # jobs of the sweep that run at once
    max_submitted: Count | None = None  # jobs that one may have in the queue, where SLURM does not say so itself
    warn_s: WarningSeconds = 120  # between the warning and the time limit or the preemption
    avoid: Annotated[tuple[str, ...], _lines("a list of nodes, by the names that `sinfo -N` shows")] = ()
    followup: dict[str, Any] = Field(  # options for the small job of --auto
        default_factory=dict, description="a mapping of sbatch options, such as {partition: cpu}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmOptions:
    """The block as checked. `sbatch` and `followup` hold options by sbatch's long names."""

    n_gpus: int = 1
    gpu_type: str = ""
    time_s: float = 0.0  # 0.0: the planner's
    setup: tuple[str, ...] = ()
    setup_may_fail: bool = False
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
        included. A job that needs more resumes from its checkpoint."""
        return max(1, math.ceil(min(self.time_s or time_s + self.warn_s, most_s) / 60))


def with_environment(options: SlurmOptions, environ: Mapping[str, str]) -> SlurmOptions:
    """The options with those that SBATCH_ACCOUNT and its like give, where the block does not; the log names the rest.

    sbatch itself never sees these variables: what a job was started with would otherwise shape the jobs that it sends.
    """
    given = {name.removeprefix("SBATCH_"): value for name, value in environ.items() if name.startswith("SBATCH_")}
    ignored = sorted(f"SBATCH_{name}" for name in given.keys() - FROM_ENVIRONMENT)
    if ignored:
        log.warning("%s: not used; say it in the slurm: block", ", ".join(ignored))
    used = {FROM_ENVIRONMENT[name]: value for name, value in given.items() if name in FROM_ENVIRONMENT and value}
    return replace(options, sbatch={**used, **options.sbatch})


def parse_options(raw: Mapping[str, Any], block: str = "slurm") -> SlurmOptions:
    """The block as checked. Raises: OptionError naming the key, the value and what is expected."""
    own = checked(SlurmBlock, raw, block)
    gpu_type, n_gpus = own.gpus
    cpus: dict[str, str | bool] = {} if own.cpus is None else {"cpus-per-task": str(own.cpus)}
    return SlurmOptions(
        n_gpus=n_gpus,
        gpu_type=gpu_type,
        time_s=own.time or 0.0,
        setup=own.setup,
        setup_may_fail=own.setup_may_fail,
        array_parallelism=own.array_parallelism,
        max_submitted=own.max_submitted,
        warn_s=own.warn_s,
        avoid=own.avoid,
        sbatch=cpus | _passed_through(own.model_extra or {}, block),
        followup=_passed_through(own.followup, f"{block}.followup"),
    )


def _passed_through(raw: Mapping[str, Any], where: str) -> dict[str, str | bool]:
    """sbatch's own options, by their long names."""
    passed: dict[str, str | bool] = {}
    for key, value in raw.items():
        name = str(key).replace("_", "-").lstrip("-")
        if name in RESERVED:
            raise OptionError(f"{where}.{key}: cannot be set: {RESERVED[name]}")
        known = known_options()
        if known and name not in known:
            near = difflib.get_close_matches(name, [*SlurmBlock.model_fields, *known], n=1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"besides sbatch's own there are {', '.join(SlurmBlock.model_fields)}"
            )
            raise OptionError(f"{where}.{key}: sbatch has no such option; {hint}")
        if value is None or value is False:
            continue
        if not isinstance(value, bool | int | float | str) or "\n" in str(value):
            raise OptionError(f"{where}.{key}: {value!r}; it must be one line of text, a number or true")
        passed[name] = value if value is True else str(value)
    return passed


@functools.cache
def known_options() -> frozenset[str]:
    """The long options of the sbatch that is installed here; none where it cannot say (it then refuses by itself)."""
    try:
        return frozenset(re.findall(r"--([a-z][a-z-]+)", ask("sbatch", "--help", timeout_s=10)))
    except ClusterError:
        return frozenset()
