"""The SLURM backend: the seam's side."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, final

from cluster.backend import (
    AbstractCluster,
    AvoidsNodes,
    ChecksRequests,
    ClusterUnavailable,
    ClusterUsageError,
    Control,
    Finding,
    FollowsUp,
    HandleStatus,
    JobRequest,
    JobState,
    NothingSent,
    NotPermitted,
)
from cluster.slurm.commands import Refused, ask, patiently, require
from cluster.slurm.doctor import examine
from cluster.slurm.limit import share_out
from cluster.slurm.options import SlurmOptions, parse_options, with_environment
from cluster.slurm.parse import Row, compressed
from cluster.slurm.queue import View, shared_queue
from cluster.slurm.reasons import needs_administrator
from cluster.slurm.record import BatchFiles, Chunk, Handle, SlurmFiles, TaskRun
from cluster.slurm.sending import Sending
from cluster.slurm.site import Site
from cluster.slurm.status import status_of

_ACTIVE: Final = {state for state in JobState if state.is_active()}


@final
class SlurmCluster(AbstractCluster, ChecksRequests, AvoidsNodes, FollowsUp):
    """A SLURM cluster that sees the sweep's folder. Options: SlurmBlock's, and sbatch's own by their long names."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        """Raises: ClusterUsageError (an option is unknown, reserved or wrong)."""
        self.folder = folder.absolute()
        if "%" in str(self.folder):
            raise ClusterUsageError(f"{self.folder}: SLURM gives '%' in a path a meaning; rename the folder")
        self.options = parse_options(options)
        self._record = SlurmFiles(self.folder)
        self._queue = shared_queue(os.environ.get("SLURM_CONF", ""))

    def submit(self, requests: Sequence[JobRequest], *, token: str) -> dict[str, str]:
        """See AbstractCluster. The same call again resumes one that failed or died."""
        return self._submit(requests, token, self.options, ())

    def submit_followup(self, request: JobRequest, *, after: Sequence[str], token: str) -> str:
        """See FollowsUp."""
        arrays = sorted({handle.job for handle in map(Handle.parse, after) if handle}, key=int)
        sbatch = {**self.options.sbatch, **self.options.followup}
        options = replace(self.options, n_gpus=0, time_s=0.0, sbatch=sbatch)
        return self._submit([request], token, options, tuple(arrays))[request.name]

    def check(self, requests: Sequence[JobRequest]) -> None:
        """See ChecksRequests. Partition, account, QOS, sizes and times, as the cluster judges them."""
        if shutil.which("sbatch") is None:
            raise ClusterUnavailable("sbatch is not on PATH here")
        options = with_environment(self.options, os.environ)
        site = Site.ask(options)
        site.check(self.folder, requests, options)
        if requests:
            self._sending(self._record.submission("check"), requests, options, site).check()

    def _submit(
        self, requests: Sequence[JobRequest], token: str, options: SlurmOptions, after: tuple[str, ...]
    ) -> dict[str, str]:
        if not token.replace("-", "").replace("_", "").isalnum():
            raise ClusterUsageError(f"token {token!r}: only letters, digits, '_' and '-' may be in it")
        require("sbatch")
        if not requests:
            return {}
        submission, options = self._record.submission(token), with_environment(options, os.environ)
        try:
            site = patiently(lambda: Site.ask(options))
        except ClusterUnavailable as error:
            if submission.chunks():  # from an earlier call with this token
                raise
            raise NothingSent(str(error)) from error
        site.check(self.folder, requests, options)
        sending = self._sending(submission, requests, options, site, after)
        if not self._record.has_limit():
            self._record.set_limit(self.options.array_parallelism)
        with submission.lock():
            try:
                return sending.send()
            finally:
                self._queue.forget()

    def _sending(
        self,
        submission: BatchFiles,
        requests: Sequence[JobRequest],
        options: SlurmOptions,
        site: Site,
        after: tuple[str, ...] = (),
    ) -> Sending:
        return Sending(
            folder=self.folder,
            submission=submission,
            requests=requests,
            options=options,
            site=site,
            queue=self._queue,
            keep_limit=self._keep_limit,
            after=after,
        )

    def wake(self) -> None:
        """See AbstractCluster. A controller that was killed may have forgotten that jobs were released: what is held
        is, but not by the user."""
        chunks = [chunk for chunk in self._record.own_chunks() if chunk.released]
        if chunks:
            handles = [chunk.handle(index) for chunk in chunks for index in range(chunk.first, chunk.last)]
            self.control(sorted(set(handles) - self._record.held()), Control.RELEASE)

    # ------------------------------------------------------------------ poll

    def poll(self, handles: Sequence[str]) -> dict[str, HandleStatus]:
        """See AbstractCluster. One squeue and one sacct, and what the tasks wrote down themselves."""
        parsed = {text: handle for text in handles if (handle := Handle.parse(text))}
        arrays = {chunk.job: (submission, chunk) for submission, chunk in self._record.chunks()}
        # always the whole sweep, so that polls of its parts share one answer
        view = self._queue.view(frozenset([*arrays, *(handle.job for handle in parsed.values())]))
        runs = self._runs(parsed, view, arrays)
        unknown = HandleStatus(state=JobState.UNKNOWN, detail="no handle of SLURM's")
        statuses: dict[str, HandleStatus] = dict.fromkeys(handles, unknown)
        for text, handle in parsed.items():
            chunk = arrays[handle.job][1] if handle.job in arrays else None
            row = _ours(view.row(handle.job, handle.task), chunk)
            packed = chunk is not None and chunk.per_task > 1
            statuses[text] = status_of(
                row, runs.get(text), is_packed=packed, without=view.without, is_whole=view.is_whole
            )
        return statuses

    def _runs(
        self, parsed: Mapping[str, Handle], view: View, arrays: Mapping[str, tuple[BatchFiles, Chunk]]
    ) -> dict[str, TaskRun]:
        """What the tasks wrote down, by handle, for every job that may have run."""
        indices: dict[str, dict[int, str]] = defaultdict(dict)
        for text, handle in parsed.items():
            row = _ours(view.row(handle.job, handle.task), arrays[handle.job][1] if handle.job in arrays else None)
            waits = row is not None and row.state in (JobState.PENDING, JobState.HELD) and not row.restarts
            if handle.job in arrays and not waits:
                chunk = arrays[handle.job][1]
                indices[handle.job][chunk.first + handle.task * chunk.per_task + handle.slot] = text
        found: dict[str, TaskRun] = {}
        for job, wanted in indices.items():
            runs = arrays[job][0].runs(wanted)
            found |= {wanted[index]: run for index, run in runs.items()}
        return found

    def handles(self) -> list[str]:
        """Every handle that was ever given out for the sweep, first come first."""
        return [chunk.handle(index) for _, chunk in self._record.chunks() for index in range(chunk.first, chunk.last)]

    # ------------------------------------------------------------------ control

    def control(self, handles: Sequence[str], action: Control) -> None:
        """See AbstractCluster. Jobs that share one SLURM job can only be cancelled together."""
        self._queue.forget()
        statuses = self.poll(handles)
        states = {Control.HOLD: {JobState.PENDING}, Control.RELEASE: {JobState.HELD}}
        meant = [text for text in handles if statuses[text].state in states.get(action, _ACTIVE)]
        self._check_whole(handles, _tasks(meant))
        if action is Control.HOLD:
            self._record.set_held(self._record.held() | set(meant))
        elif action is Control.RELEASE:
            self._record.set_held(self._record.held() - set(meant))
        try:
            if action is Control.RELEASE:
                self._release({text: statuses[text].detail for text in meant})
            elif meant:
                _change(action, _ids(meant))
        finally:
            self._queue.forget()

    def _release(self, held: Mapping[str, str]) -> None:
        """Release jobs, given with why they are held; those that only an administrator may release are tried last.

        Raises: ClusterUnavailable, NotPermitted naming the jobs that their owner cannot release.
        """
        locked = [text for text, why in held.items() if needs_administrator(why)]
        if free := [text for text in held if text not in locked]:
            _change(Control.RELEASE, _ids(free))
        if locked:
            try:
                _change(Control.RELEASE, _ids(locked))
            except ClusterUsageError as error:
                raise NotPermitted(
                    f"{', '.join(locked)}: {held[locked[0]]}\nask an administrator for"
                    f" `scontrol release {','.join(_ids(locked))}` (SLURM says: {error})"
                ) from None

    def _check_whole(self, handles: Sequence[str], tasks: Mapping[str, set[int]]) -> None:
        """Raises: ClusterUsageError when only some of the jobs in one SLURM job are meant."""
        for submission, chunk in self._record.chunks():
            for task in tasks.get(chunk.job, set()) if chunk.per_task > 1 else ():
                together = [chunk.handle(index) for index in chunk.indices(task)]
                left = sorted(set(together) - set(handles))
                runs = submission.runs(chunk.indices(task)) if left else {}
                ended = {chunk.handle(index) for index, run in runs.items() if run.ended and not run.again}
                if set(left) - ended:
                    raise ClusterUsageError(
                        f"{', '.join(left)} share(s) SLURM job {chunk.job}_{task} with what is to be changed:"
                        " name all of them"
                    )

    def limit(self, n_jobs: int | None) -> None:
        """See AbstractCluster. What runs above the new limit runs on."""
        if n_jobs is not None and n_jobs < 1:
            raise ClusterUsageError(f"limit {n_jobs}: it must be 1 or more, or none; to start no more jobs, hold them")
        self._record.set_limit(n_jobs)
        arrays = [chunk.job for chunk in self._record.own_chunks() if not chunk.is_followup]
        if arrays:
            share_out(n_jobs, self._queue.active(arrays))
        self._queue.forget()

    def _keep_limit(self) -> None:
        """Have the arrays share the limit anew, where there is one."""
        if self._record.limit() is not None:
            self.limit(self._record.limit())

    def doctor(self) -> list[Finding]:
        """See AbstractCluster. Sends a job of some seconds to look around on a node."""
        return examine(self.folder, with_environment(self.options, os.environ))


def _ours(row: Row | None, chunk: Chunk | None) -> Row | None:
    """The row, unless it is another job's: a controller that lost its state gives the same ids a second time."""
    is_foreign = row is not None and chunk is not None and row.name not in ("", chunk.name)
    return None if is_foreign else row


def _tasks(handles: Sequence[str]) -> dict[str, set[int]]:
    """The tasks of each array that the handles name."""
    tasks: dict[str, set[int]] = defaultdict(set)
    for handle in filter(None, map(Handle.parse, handles)):
        tasks[handle.job].add(handle.task)
    return tasks


def _ids(handles: Sequence[str]) -> list[str]:
    """The handles in SLURM's short form, one word for each array."""
    return [f"{job}_[{compressed(numbers)}]" for job, numbers in _tasks(handles).items()]


def _change(action: Control, ids: Sequence[str]) -> None:
    match action:
        case Control.CANCEL:
            _tell("scancel", *ids)
        case Control.KILL:
            _tell("scancel", "--full", "--signal=KILL", *ids)
            _tell("scancel", *ids)
        case Control.HOLD | Control.RELEASE:
            _tell("scontrol", action.value, ",".join(ids))


def _tell(*command: str) -> None:
    """Run a command that changes jobs; that some of them have ended meanwhile is no error."""
    try:
        ask(*command)
    except Refused as error:
        text = str(error)
        if not any(word in text for word in ("Invalid job id", "already complet", "no longer pending")):
            raise ClusterUsageError(text) from None
