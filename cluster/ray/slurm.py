"""Ray inside SLURM: each submission is one SLURM job of n nodes, with a Ray cluster of its own that ends with it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from pydantic import ConfigDict

from cluster.backend import (
    AbstractCluster,
    AvoidsNodes,
    ClusterUnavailable,
    ClusterUsageError,
    Control,
    Finding,
    HandleStatus,
    JobRequest,
    JobState,
)
from cluster.files import create_json, get_record
from cluster.options import OptionError, checked
from cluster.process import only_sender
from cluster.ray.allocation import read_allocation, token_path
from cluster.ray.checking import installed_ray
from cluster.ray.options import RayJobBlock
from cluster.ray.reading import QUIET_S, give_orders, poll, set_limit
from cluster.ray.record import Batch, Phase, RayFiles
from cluster.slurm.commands import Refused, ask, require
from cluster.slurm.options import SlurmOptions, parse_options, with_environment
from cluster.slurm.queue import Queue
from cluster.slurm.site import Site
from values.numbers import Nodes

_SLURM_ONLY: Final = ("array_parallelism", "max_submitted", "warn_s", "followup", "setup_may_fail")


class RaySlurmBlock(RayJobBlock):
    """The `ray_slurm:` block: the allocation's nodes, each job's options, and those of `slurm:` beside them."""

    model_config = ConfigDict(extra="allow")

    nodes: Nodes = 1


@final
class RaySlurmCluster(AbstractCluster, AvoidsNodes):
    """A Ray cluster for each submission inside a SLURM allocation. Options: those of RaySlurmBlock, and of `slurm:` for
    the allocation, where `gpus` and `cpus` are a node's, and `time` is required."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        """Raises: ClusterUsageError (an option is unknown, missing or wrong)."""
        for key in _SLURM_ONLY:
            if key in options:
                raise OptionError(f"ray_slurm.{key}: has no meaning here: the allocation is one SLURM job")
        block = checked(RaySlurmBlock, options, "ray_slurm")
        if "time" not in options:
            raise OptionError("ray_slurm.time: missing; how long the allocation may last, as in '12:00:00'")
        self._n_nodes, self._options = block.nodes, block.job_options()
        self._slurm = parse_options(block.model_extra or {}, "ray_slurm")
        self._record = RayFiles(folder.resolve())
        self._queue = Queue()
        self.watch = tuple(line for one in self._record.submissions() for line in self._watch(one))

    def submit(self, requests: Sequence[JobRequest], *, token: str) -> dict[str, str]:
        """See AbstractCluster. Returns when SLURM has the job; the nodes are looked at when it runs."""
        if not requests:
            return {}
        installed_ray()
        require("sbatch")
        slurm = with_environment(self._slurm, os.environ)
        site = Site.ask(slurm)
        site.check(self._record.folder, (), slurm)
        for request in requests:
            if request.n_gpus > self._slurm.n_gpus:
                raise ClusterUsageError(
                    f"{request.name} needs {request.n_gpus} GPUs, but ray_slurm.gpus is {self._slurm.n_gpus} a node"
                )
        submission = self._record.add(token, requests, self._options)
        with only_sender(self._job_path(submission.name).with_suffix(".lock"), token):
            if self._slurm_job(submission.name) is None:
                create_json(self._job_path(submission.name), {"slurm_job": self._send(submission.name, site, slurm)})
        return submission.handles()

    def wake(self) -> None:
        """See AbstractCluster. SLURM keeps what waits."""

    def poll(self, handles: Sequence[str]) -> dict[str, HandleStatus]:
        """See AbstractCluster. What the dispatchers wrote down; where that is active, SLURM is asked too."""
        return poll(self._record, handles, self._fate)

    def handles(self) -> list[str]:
        """Every handle that was ever given out for the sweep, first come first."""
        return [handle for submission in self._record.submissions() for handle in submission.handles().values()]

    def control(self, handles: Sequence[str], action: Control) -> None:
        """See AbstractCluster. An allocation that has not begun and is not wanted any more is withdrawn."""
        give_orders(self._record, handles, action)
        if action in (Control.CANCEL, Control.KILL):
            for submission in self._record.submissions():
                job = self._slurm_job(submission.name)
                unwanted = set(submission.handles().values()) <= set(handles)
                if job and unwanted and self._record.state(submission.name) is None:
                    self._queue.forget()
                    ask("scancel", job)

    def limit(self, n_jobs: int | None) -> None:
        """See AbstractCluster. What runs above the new limit runs on."""
        set_limit(self._record, n_jobs)

    def doctor(self) -> list[Finding]:
        """See AbstractCluster."""
        site = Site.ask(with_environment(self._slurm, os.environ))
        allowed_s, wanted_s = site.max_time_s, self._slurm.time_s
        n_nodes = len(site.nodes)
        return [
            Finding(
                check="nodes",
                ok=n_nodes >= self._n_nodes,
                found=f"{n_nodes} nodes, {self._n_nodes} wanted",
                remedy="ask for fewer with ray_slurm.nodes, or choose another partition",
            ),
            Finding(
                check="time",
                ok=wanted_s <= allowed_s,
                found=f"{wanted_s / 3600:.1f} h wanted, {allowed_s / 3600:.1f} h allowed",
                remedy="lower ray_slurm.time; `resume` asks for a new allocation for what is left",
            ),
        ]

    # ------------------------------------------------------------------ the SLURM job

    def _job_path(self, name: str) -> Path:
        return self._record.root / "slurm" / f"{name}.job.json"

    def _slurm_job(self, name: str) -> str | None:
        found = get_record(self._job_path(name), dict[str, str])
        return found["slurm_job"] if found else None

    def _send(self, name: str, site: Site, slurm: SlurmOptions) -> str:
        """The id of the SLURM job of this name: the one that SLURM has, or a new one."""
        known = self._queue.find(name)
        if known:
            return known
        script = self._record.root / "slurm" / f"{name}.sh"
        script.parent.mkdir(parents=True, exist_ok=True)
        task = shlex.join([sys.executable, "-P", "-m", "cluster.ray.allocation", str(self._record.path(name))])
        cpus = slurm.sbatch.get("cpus-per-task", "1")
        srun = (
            f"srun --ntasks={self._n_nodes} --ntasks-per-node=1 --cpus-per-task={cpus} --kill-on-bad-exit=1 --wait=60"
        )
        script.write_text("\n".join(["#!/bin/bash", *slurm.setup, f"exec {srun} {task}", ""]), encoding="utf-8")
        minutes = slurm.time_minutes(slurm.time_s, site.max_time_s)
        options = {
            **slurm.sbatch,
            **site.exclude(slurm),
            **slurm.gres(slurm.n_gpus),
            "job-name": name,
            "nodes": str(self._n_nodes),
            "ntasks-per-node": "1",
            "time": str(minutes),
            "output": str(script.with_suffix(".log")),
            "no-requeue": True,
        }
        given = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items()]
        try:
            return ask("sbatch", "--parsable", *given, str(script)).strip().partition(";")[0]
        except Refused as error:
            raise ClusterUsageError(f"sbatch refused the allocation: {error}") from None

    def _fate(self, submission: Batch, quiet_s: float) -> HandleStatus | None:
        """What the allocation says of a submission's active jobs; None while its dispatcher is at work."""
        job = self._slurm_job(submission.name)
        if job is None:
            return HandleStatus(state=JobState.UNKNOWN, detail="whether SLURM has the allocation is not known; resume")
        begun = self._record.state(submission.name) is not None
        try:
            row = self._queue.view(frozenset([job])).rows.get(job)
        except ClusterUnavailable as error:
            return None if begun and quiet_s < QUIET_S else HandleStatus(state=JobState.UNKNOWN, detail=str(error))
        if row is None:
            return (
                None
                if begun and quiet_s < QUIET_S
                else HandleStatus(state=JobState.UNKNOWN, detail=f"job {job}: unseen")
            )
        if row.state.is_finished():
            state = JobState.NODE_FAIL if row.state is JobState.COMPLETED else row.state
            return HandleStatus(
                state=state, detail=f"the allocation, SLURM job {job}, has ended: {row.word}", node=row.node
            )
        if row.state is JobState.RUNNING:
            return None if begun else HandleStatus(state=JobState.PENDING, detail=f"Ray is being started on {row.node}")
        return HandleStatus(state=row.state, detail=f"SLURM job {job}: {row.reason or row.word}")

    def _watch(self, submission: Batch) -> tuple[str, ...]:
        state, allocation = self._record.state(submission.name), read_allocation(self._record, submission.name)
        if allocation is None or allocation.over or (state is not None and state.phase is Phase.ENDED):
            return ()
        port = allocation.dashboard.rpartition(":")[2]
        return (
            f"dashboard: {allocation.dashboard} after ssh -N -L {port}:127.0.0.1:{port} {allocation.host}",
            f"its token: {token_path(self._record, submission.name)}",
        )
