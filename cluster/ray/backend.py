"""The Ray backend, where the user is: hands submissions to a cluster and reads what became of them from the folder."""

from __future__ import annotations

import platform
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

from cluster.backend import (
    AbstractCluster,
    ClusterUnavailable,
    ClusterUsageError,
    Control,
    Finding,
    HandleStatus,
    JobRequest,
    JobState,
)
from cluster.ray.api import LOOPBACK, RayApi, RayJobStatus
from cluster.ray.checking import REACH, SAME, check_cluster, mismatch_of
from cluster.ray.options import parse_options
from cluster.ray.reading import QUIET_S, give_orders, poll, set_limit
from cluster.ray.record import Batch, DispatcherState, Phase, RayFiles
from cluster.ray.starting import start_dispatcher

SUBMIT_S: Final = 180.0  # from handing a submission in to its dispatcher's word on every node
SILENT_S: Final = 30.0  # meanwhile a busy head may leave questions of ours without an answer for so long
LOST_S: Final = 120.0  # as QUIET_S, when Ray does not answer: its processes outlive their head by 60 s
SKEW_S: Final = 5.0
_DROP_TRIES: Final = 50
_MONITOR_S: Final = 3.0  # Ray's own monitor looks at each job once a second
_ENDS: Final = (Control.CANCEL, Control.KILL)


@final
class RayCluster(AbstractCluster):
    """A running Ray cluster that sees the sweep's folder. Options: see OPTIONS. Never imports Ray."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        """Raises: ClusterUsageError (an option is unknown, missing or wrong)."""
        self.address, self._options = parse_options(options)
        self._record = RayFiles(folder.resolve())
        self._api = RayApi(self.address)
        self._same_paths = f"mount {self._record.folder} and this Python at the same paths on every node"
        self.watch = _watch(self.address)

    def submit(self, requests: Sequence[JobRequest], *, token: str) -> dict[str, str]:
        """See AbstractCluster. Returns when the dispatcher has looked at every node and begun.

        Raises: ClusterUsageError (no Ray there, other versions, too few GPUs, a node that does not see the folder),
        ClusterUnavailable (the same call again continues where this one ended).
        """
        if not requests:
            return {}
        name = self._record.name(token)
        state = self._record.state(name)
        if state is not None and state.phase is Phase.REFUSED:  # and mended since
            self._api.delete_job(name)
            self._record.forget(name)
            state = None
        if state is None:
            check_cluster(self._api, requests, self._options)
            self._hand_in(token, requests)
        state = self._begun(name)
        if state.phase is Phase.REFUSED:
            self._drop(name)
            mend = f"; {self._same_paths}" if any(node.problem for node in state.nodes) else ""
            raise ClusterUsageError(f"Ray at {self.address} cannot run the jobs: {state.message}{mend}")
        handles = self._submission(name).handles()
        if handles.keys() != {request.name for request in requests}:
            raise ClusterUsageError(f"token {token!r} was used before, for other jobs: {', '.join(sorted(handles))}")
        return handles

    def wake(self) -> None:
        """See AbstractCluster. The dispatchers are on the cluster; one that is gone took its jobs with it."""

    def poll(self, handles: Sequence[str]) -> dict[str, HandleStatus]:
        """See AbstractCluster. What the dispatchers wrote down, with one question to Ray for each that is at work."""
        return poll(self._record, handles, self._fate)

    def handles(self) -> list[str]:
        """Every handle that was ever given out for the sweep, first come first."""
        return [handle for submission in self._record.submissions() for handle in submission.handles().values()]

    def control(self, handles: Sequence[str], action: Control) -> None:
        """See AbstractCluster. The order is written down; the dispatcher obeys within a second or two. One that was
        started before the folder was moved reads nothing here: it is ended itself."""
        give_orders(self._record, handles, action)
        for name in {handle.rpartition(".")[0] for handle in handles} if action in _ENDS else ():
            submission, state = self._record.submission(name), self._record.state(name)
            is_over = state is not None and state.phase is Phase.ENDED
            if submission is not None and not is_over and not self._record.is_own(submission):
                self._api.stop_job(name)

    def limit(self, n_jobs: int | None) -> None:
        """See AbstractCluster. What runs above the new limit runs on."""
        set_limit(self._record, n_jobs)

    def doctor(self) -> list[Finding]:
        """See AbstractCluster. A dispatcher without jobs is sent to look at the nodes."""
        try:
            versions, nodes = self._api.versions(), self._api.nodes()
        except (ClusterUnavailable, ClusterUsageError) as error:
            remedy = REACH if isinstance(error, ClusterUnavailable) else "the line above says what to set"
            return [Finding(check="Ray", ok=False, found=str(error), remedy=remedy)]
        mismatch = mismatch_of(self._api)
        n_gpus = sum(node.n_gpus for node in nodes)
        found = ", ".join(f"{node.name}: {node.n_gpus:g}" for node in nodes) or "no node"
        findings = [
            Finding(check="Ray", ok=True, found=f"{versions.ray} on Python {versions.python} at {self.address}"),
            Finding(check="versions", ok=not mismatch, found=mismatch or "the same here and there", remedy=SAME),
            Finding(check="GPUs", ok=n_gpus > 0, found=found, remedy="give each node its own: ray start --num-gpus N"),
            self._openness(),
        ]
        return findings if mismatch else findings + self._seen_from_nodes()

    # ------------------------------------------------------------------ handing in

    def _hand_in(self, token: str, requests: Sequence[JobRequest]) -> None:
        try:
            submission = self._record.add(token, requests, self._options)
        except OSError as error:
            raise ClusterUsageError(f"{self._record.root}: cannot write: {error.strerror}") from error
        start_dispatcher(self._api, self._record, submission)

    def _begun(self, name: str) -> DispatcherState:
        """The dispatcher's state once it has looked at the nodes. Raises: ClusterUsageError, ClusterUnavailable."""
        began = heard = time.monotonic()
        while time.monotonic() - began < SUBMIT_S:
            job = None
            try:
                job = self._api.job(name)
                heard = time.monotonic()
            except ClusterUnavailable:
                if time.monotonic() - heard > SILENT_S:
                    raise
            state = self._record.state(name)
            if state is not None and state.phase is not Phase.PROBING:
                return state
            if job is not None and job.status.is_over():
                said = self._api.job_log(name).strip().splitlines()[-3:]
                self._drop(name)
                raise ClusterUsageError(
                    f"the head node could not start the dispatcher: {' | '.join(said) or job.message}"
                )
            time.sleep(0.2)
        raise ClusterUnavailable(f"{self.address}: the dispatcher {name} has not begun after {SUBMIT_S:.0f} s")

    def _drop(self, name: str) -> None:
        """Leave no trace of a dispatcher that started no job: what it found is in the caller's message."""
        with suppress(ClusterUnavailable, ClusterUsageError):
            for _ in range(_DROP_TRIES):  # Ray hears of a process's end some tenths of a second later
                job = self._api.job(name)
                if job is None or job.status.is_over():
                    time.sleep(_MONITOR_S)  # a monitor that has not seen the end yet fails the next job of this name
                    self._api.delete_job(name)
                    break
                time.sleep(0.2)
        self._record.forget(name)

    # ------------------------------------------------------------------ reading

    def _submission(self, name: str) -> Batch:
        submission = self._record.submission(name)
        if submission is None:
            raise ClusterUsageError(f"no submission {name} in {self._record.root}")
        return submission

    def _fate(self, submission: Batch, quiet_s: float) -> HandleStatus | None:
        """What has become of the active jobs of a dispatcher that is not at work any more; None while it is."""
        known = self._record.end(submission.name)
        if known is not None:
            return known
        quiet = f"its dispatcher's last sign of life is {quiet_s:.0f} s old"
        try:
            job = self._api.job(submission.name)
        except (ClusterUnavailable, ClusterUsageError) as error:
            if quiet_s < QUIET_S:
                return None
            if quiet_s > LOST_S:
                return self._given_up(submission, f"{error}; {quiet}")
            return HandleStatus(state=JobState.UNKNOWN, detail=f"{error}; {quiet}")
        if job is None:  # the head was restarted and remembers nothing
            if quiet_s <= QUIET_S:
                return None
            return self._given_up(submission, f"Ray at {self.address} does not know it; {quiet}")
        if not job.status.is_over():
            return None
        if job.status is RayJobStatus.STOPPED:
            end = HandleStatus(state=JobState.CANCELLED, detail="its dispatcher was stopped in Ray")
        else:
            end = HandleStatus(state=JobState.NODE_FAIL, detail=f"its dispatcher died: {_first(job.message)}")
        return self._ended(submission, end) if quiet_s > QUIET_S else end  # it says nothing against that

    def _given_up(self, submission: Batch, detail: str) -> HandleStatus:
        """The end of a submission whose dispatcher is taken for dead, for good: should it live, it reads that and ends,
        for by then its cells may be in other jobs."""
        return self._ended(submission, HandleStatus(state=JobState.NODE_FAIL, detail=detail))

    def _ended(self, submission: Batch, end: HandleStatus) -> HandleStatus:
        with suppress(OSError):  # whoever may only read is told as well
            self._record.put_end(submission.name, end)
        return end

    # ------------------------------------------------------------------ doctor

    def _openness(self) -> Finding:
        host = urllib.parse.urlsplit(self.address).hostname
        if self._api.asks_for_token():
            return Finding(check="access", ok=True, found="Ray asks for its token")
        return Finding(
            check="access",
            ok=host in LOOPBACK,
            found=f"no token; whoever reaches {self.address} can run programs there",
            remedy="`ray start --dashboard-host 127.0.0.1` and an ssh tunnel, or RAY_AUTH_MODE=token on both sides",
        )

    def _seen_from_nodes(self) -> list[Finding]:
        token = f"doctor-{time.time_ns()}"
        name = self._record.name(token)
        try:
            self._hand_in(token, [])
            nodes = self._begun(name).nodes
        except (ClusterUnavailable, ClusterUsageError) as error:
            return [
                Finding(check="dispatcher", ok=False, found=str(error), remedy="see the job's log in the dashboard")
            ]
        finally:
            self._drop(name)
        remedy = f"{self._same_paths}, and keep the clocks together"
        return [
            Finding(
                check=f"node {node.node}",
                ok=not node.problem and abs(node.clock_skew_s) < SKEW_S,
                found=node.problem or f"sees the folder; its clock differs by {node.clock_skew_s:.1f} s",
                remedy=remedy,
            )
            for node in nodes
        ]


def _first(message: str) -> str:
    """What Ray says of a job that failed, without the log that it appends."""
    return message.partition(", last available logs")[0].partition("\n")[0]


def _watch(address: str) -> tuple[str, ...]:
    url = urllib.parse.urlsplit(address)
    port = url.port or (443 if url.scheme == "https" else 80)
    tunnel = f"ssh -N -L {port}:{url.hostname}:{port} {platform.node()}"
    return (f"dashboard: {address}", f"from your own machine: {tunnel}")
