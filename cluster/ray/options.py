"""The `ray:` block: what a user may say of the cluster and the jobs on it, checked before anything is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from cluster.options import Block, checked
from cluster.ray.record import RayJobOptions
from values.numbers import Amount, CountOrNone

_ADDRESS = "the dashboard's URL, http://HOST:8265 as `ray start --head` prints it, never `auto`"


class RayJobBlock(Block):
    """How each job runs."""

    cpus_per_job: Amount = 1.0  # CPUs that each job reserves
    max_restarts: CountOrNone | None = None  # runs after the first of a job, in place of what every backend does
    resources: dict[str, Amount] = Field(default_factory=dict)  # custom resources that each job needs, {name: amount}

    def job_options(self) -> RayJobOptions:
        """As a submission's record has it."""
        return RayJobOptions(
            cpus_per_job=self.cpus_per_job, max_restarts=self.max_restarts, resources=dict(self.resources)
        )


class RayBlock(RayJobBlock):
    """A cluster that runs already."""

    address: Annotated[
        str, Field(pattern=r"^https?://[^/\s]+/?$", description=_ADDRESS), AfterValidator(lambda url: url.rstrip("/"))
    ]


def parse_options(raw: Mapping[str, Any]) -> tuple[str, RayJobOptions]:
    """The address, and how each job runs. Raises: OptionError, naming the option."""
    block = checked(RayBlock, raw, "ray")
    return block.address, block.job_options()
