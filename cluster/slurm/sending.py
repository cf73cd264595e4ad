"""Sends the requests of one submission to SLURM, and continues a submission that was left half-way.

An array passes through: intended (written down, with the name by which SLURM can be asked for it) -> sent, held (its id
written down) -> its tasks' files in place -> released. A process may die between any two; the next call with the same
token continues with each array where it was left.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cluster.backend import (
    ClusterError,
    ClusterUnavailable,
    ClusterUsageError,
    JobRequest,
    NothingSent,
    QueueFull,
    SubmissionIncomplete,
)
from cluster.slurm.commands import Refused, ask, patiently
from cluster.slurm.executor import place_tasks, send_array
from cluster.slurm.options import SlurmOptions
from cluster.slurm.queue import Queue
from cluster.slurm.record import BatchFiles, Chunk
from cluster.slurm.remedies import is_job_limit, remedy
from cluster.slurm.setup import script
from cluster.slurm.site import Site
from cluster.slurm.task import run_task

PAUSES_S: Final = (1.0, 4.0)  # before an array is looked for, and sent again, after SLURM did not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """One call of submit, on a locked submission."""

    folder: Path  # the sweep's
    submission: BatchFiles
    requests: Sequence[JobRequest]
    options: SlurmOptions
    site: Site
    queue: Queue
    keep_limit: Callable[[], None]  # has the arrays share the sweep's limit of running jobs
    after: tuple[str, ...] = ()  # arrays that must have ended first

    def send(self) -> dict[str, str]:
        """The handles, once every request is with SLURM.

        Raises: ClusterUsageError, ClusterUnavailable, SubmissionIncomplete.
        """
        self._check_same()
        for chunk in self.submission.chunks():
            if not chunk.released:
                self._finish(chunk, known_as=chunk.job or self.queue.find(chunk.name))
        first = max((chunk.last for chunk in self.submission.chunks()), default=0)
        while first < len(self.requests):
            chunk = self._next_chunk(first)
            self.submission.put_chunk(chunk)
            self._finish(chunk, known_as="")
            first = chunk.last
        return self.submission.handles()

    def check(self) -> None:
        """Try out the requests as one array; none of them is sent, and nothing written down.

        Raises: ClusterUsageError, ClusterUnavailable (QueueFull: what SLURM would say of them otherwise is not known).
        """
        options = self._sbatch(self._chunk(0, self.requests))
        try:
            self._trial(options)
        except Refused as error:
            if is_job_limit(str(error)):
                raise QueueFull(str(error)) from None
            raise self._refusal(options, error) from None

    def _check_same(self) -> None:
        if self.submission.begin(self.requests):
            return
        known = [request.name for request in self.submission.requests()]
        if known != [request.name for request in self.requests]:
            token, names = self.submission.folder.name, ", ".join(known[:5])
            raise ClusterUsageError(f"token {token!r} was used before, for other jobs: {names} ({len(known)} in all)")

    def _next_chunk(self, first: int) -> Chunk:
        """The array that begins with request number `first`, as large as SLURM allows. Raises: as send."""
        try:
            room, limit = self.site.room()
        except (Refused, ClusterUnavailable) as error:
            raise self._nothing_sent(f"how many jobs it takes is not known: {error}") from None
        if room <= 0:
            raise self._full(f"{limit} is reached")
        n_gpus = self.requests[first].n_gpus
        like = list(itertools.takewhile(lambda request: request.n_gpus == n_gpus, self.requests[first:]))
        like = like[: min(self.site.max_array_size, room) * self.options.n_slots]
        return self._chunk(first, like)

    def _chunk(self, first: int, like: Sequence[JobRequest]) -> Chunk:
        """The array of these requests, before it is sent."""
        token, sweep = self.submission.folder.name, self.folder.name
        return Chunk(
            token=token,
            first=first,
            n_requests=len(like),
            per_task=self.options.n_slots,
            name=f"{token if token.startswith(sweep) else f'{sweep}-{token}'}-{first}",
            time_minutes=self.options.time_minutes(max(one.time_s for one in like), self.site.max_time_s),
            is_followup=bool(self.after),
        )

    def _finish(self, chunk: Chunk, *, known_as: str) -> None:
        """Bring an array from its present step to the one where its jobs may start. Raises: as send."""
        chunk = replace(chunk, job=known_as or self._sent(chunk))
        self.submission.put_chunk(chunk)
        path = self.submission.chunk_path(chunk.first)
        place_tasks(self.submission.submitit, chunk.job, chunk.n_tasks, run_task, path)
        self.keep_limit()
        try:
            patiently(lambda: ask("scontrol", "release", chunk.job))
        except Refused:
            if self.queue.active([chunk.job]):  # else it was cancelled meanwhile
                raise
        self.submission.put_chunk(replace(chunk, released=True))

    def _sent(self, chunk: Chunk) -> str:
        """The id of the array, sent now; looked for before it is sent again. Raises: as send."""
        options = self._sbatch(chunk)
        self._try_out(chunk, options)
        chunk_file, may_fail = self.submission.chunk_path(chunk.first), self.options.setup_may_fail
        setup = script(self.options.setup, chunk_file, may_fail=may_fail)
        for pause_s in (*PAUSES_S, None):
            try:
                return send_array(self.submission.submitit, chunk.n_tasks, options, setup)
            except Refused as error:
                self.submission.forget_chunk(chunk)
                raise self._refused(options, error) from None
            except ClusterUnavailable as error:
                if pause_s is None:
                    raise self._stopped(str(error)) from None
                time.sleep(pause_s)
                try:
                    found = self.queue.find(chunk.name)
                except ClusterUnavailable:
                    raise self._stopped(str(error)) from None
                if found:
                    return found
        raise AssertionError("the last try returns or raises")

    def _try_out(self, chunk: Chunk, options: Mapping[str, str | bool]) -> None:
        """Have SLURM check what a held array would only fail at later. Raises: as send.

        A trial says of nodes that are down for the moment that they are not there, where sbatch would queue the job.
        """
        try:
            self._trial(options)
        except Refused as error:
            self.submission.forget_chunk(chunk)
            raise self._refused(options, error) from None
        except ClusterUnavailable as error:
            self.submission.forget_chunk(chunk)
            raise self._nothing_sent(str(error)) from None

    def _trial(self, options: Mapping[str, str | bool]) -> None:
        """Raises: Refused where sbatch would not take a job with these options; ClusterUnavailable."""
        try:
            patiently(lambda: ask("sbatch", "--test-only", *_flags(options), "--wrap", "true"))
        except Refused:
            if self.site.is_healthy or not self._is_queued(options):
                raise

    def _is_queued(self, options: Mapping[str, str | bool]) -> bool:
        """Whether sbatch itself takes such a job: one that would begin in an hour is sent and cancelled at once.

        Raises: Refused, ClusterUnavailable.
        """
        later = {**options, "job-name": "causalsweep-trial", "begin": "now+1hour"}
        job = ask("sbatch", "--parsable", *_flags(later), "--wrap", "true").strip().partition(";")[0]
        if job.isdigit():
            ask("scancel", job)
        return job.isdigit()

    def _sbatch(self, chunk: Chunk) -> dict[str, str | bool]:
        n_gpus = self.options.n_gpus if self.options.n_slots > 1 else self.requests[chunk.first].n_gpus
        return {
            **self.options.sbatch,
            **self.site.exclude(self.options),
            **self.options.gres(n_gpus),
            **({"dependency": f"afterany:{':'.join(self.after)}"} if self.after else {}),
            "job-name": chunk.name,
            "comment": f"causalsweep {self.folder}",
            "time": str(chunk.time_minutes),
            # B: to the batch step alone, which passes it on; a warning longer than half of the time would come at once
            "signal": f"B:USR2@{min(self.options.warn_s, 30 * chunk.time_minutes)}",
            "output": str(self.submission.submitit / "%A_%a_0_log.out"),
        }

    def _refused(self, options: Mapping[str, str | bool], error: Refused) -> ClusterError:
        """What it means that SLURM does not take an array."""
        if is_job_limit(str(error)):
            return self._full(str(error))
        if self.submission.chunks():
            return self._stopped(str(error))
        self.submission.forget()
        return self._refusal(options, error)

    @staticmethod
    def _refusal(options: Mapping[str, str | bool], error: Refused) -> ClusterUsageError:
        asked = " ".join(_flags(options))
        return ClusterUsageError(f"SLURM does not take the jobs: {error}. {remedy(str(error))} Asked for: {asked}")

    def _nothing_sent(self, why: str) -> ClusterError:
        """SLURM did not answer before the next array was sent."""
        if self.submission.chunks():
            return self._stopped(why)
        self.submission.forget()
        return NothingSent(why)

    def _full(self, why: str) -> ClusterError:
        """SLURM takes no more jobs for the time being; it may have none at all."""
        if self.submission.chunks():
            return self._stopped(why)
        self.submission.forget()
        return QueueFull(f"none of {len(self.requests)} jobs was sent: {why}")

    def _stopped(self, why: str) -> ClusterError:
        """Some requests are with SLURM, or none."""
        handles = self.submission.handles()
        message = f"{len(handles)} of {len(self.requests)} jobs were submitted: {why}; `causalsweep resume` continues"
        return SubmissionIncomplete(message, handles) if handles else ClusterUnavailable(message)


def _flags(options: Mapping[str, str | bool]) -> list[str]:
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items()]
