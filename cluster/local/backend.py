"""This machine as a cluster: N jobs side by side, run by processes that outlive the one which submitted them."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from cluster.backend import (
    AbstractCluster,
    ClusterUsageError,
    Control,
    Finding,
    HandleStatus,
    JobRequest,
    JobState,
    KnowsItsSlots,
    Slots,
)
from cluster.local.options import LocalBlock
from cluster.local.processes import ensure_dispatcher
from cluster.local.queue import LocalFiles, Settings
from cluster.options import checked
from cluster.process import signal_group


@final
class LocalCluster(AbstractCluster, KnowsItsSlots):
    """This machine. Options: those of LocalBlock."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        """Raises: ClusterUsageError."""
        self.devices = visible_gpus()
        workers = checked(LocalBlock, options, "local").workers or len(self.devices) or os.cpu_count() or 1
        self.settings = Settings(workers=workers, devices=self.devices)
        self.folder = folder.absolute()
        self.queue = LocalFiles(self.folder)

    def submit(self, requests: Sequence[JobRequest], *, token: str) -> dict[str, str]:
        """See AbstractCluster."""
        if not re.fullmatch(r"[A-Za-z0-9_-]+", token):
            raise ClusterUsageError(f"token {token!r}: only letters, digits, '_' and '-' may be in it")
        for request in requests:
            if request.n_gpus > self.settings.workers:
                raise ClusterUsageError(
                    f"{request.name}: {request.n_gpus} GPUs asked for, but local.workers is {self.settings.workers}"
                )
        try:
            self.queue.add(token, list(requests), self.settings)
            ensure_dispatcher(self.folder)
        except OSError as error:
            raise ClusterUsageError(f"{self.queue.root}: cannot write: {error}") from error
        accepted = {request.name: f"{token}.{index}" for index, request in enumerate(self.queue.batch(token))}
        if accepted.keys() != {request.name for request in requests}:
            raise ClusterUsageError(f"token {token!r} was used before, for other jobs: {', '.join(sorted(accepted))}")
        return accepted

    def wake(self) -> None:
        """See AbstractCluster. The dispatcher may have been killed."""
        if self.queue.has_settings():
            ensure_dispatcher(self.folder)

    def slots(self) -> Slots:
        """See KnowsItsSlots."""
        return Slots(
            n_jobs=self.settings.workers,
            key="local.workers",
            has_gpus=bool(self.devices),
            gpu_name=_gpu_name() if self.devices else "",
        )

    def poll(self, handles: Sequence[str]) -> dict[str, HandleStatus]:
        """See AbstractCluster."""
        return {handle: self.queue.status(handle) for handle in handles}

    def control(self, handles: Sequence[str], action: Control) -> None:
        """See AbstractCluster. A job that runs already cannot be held: it runs on."""
        for handle in handles:
            state = self.queue.status(handle).state
            ends = action in (Control.CANCEL, Control.KILL)
            if state.is_active() and (ends or state is not JobState.RUNNING):
                self.queue.give_order(handle, action)
                if ends:
                    self._pass_on(handle, action)
        if action is Control.RELEASE:
            ensure_dispatcher(self.folder)

    def _pass_on(self, handle: str, action: Control) -> None:
        """Let the job's runner know of an order. One that claims the job after this looked reads the order itself."""
        record = self.queue.run(handle)
        if record is None:
            return
        has_runner = record.runner.is_alive()
        if has_runner:
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(record.runner.pid, signal.SIGTERM)
        # a runner that is being killed itself passes nothing on: what has to end at once is ended from here as well
        if record.child is not None and record.child.is_alive() and (action is Control.KILL or not has_runner):
            signal_group(record.child.pid, signal.SIGKILL if action is Control.KILL else signal.SIGTERM)

    def limit(self, n_jobs: int | None) -> None:
        """See AbstractCluster. What runs above the new limit runs on."""
        if n_jobs is not None and n_jobs < 0:
            raise ClusterUsageError(f"limit {n_jobs}: it must be 0 or more, or none")
        self.queue.set_limit(n_jobs)
        if self.queue.has_settings():
            ensure_dispatcher(self.folder)

    def doctor(self) -> list[Finding]:
        """See AbstractCluster."""
        free_gb = shutil.disk_usage(_existing(self.folder)).free / 1e9
        gpus = ", ".join(self.devices)
        return [
            Finding(check="workers", ok=True, found=f"{self.settings.workers} side by side, {os.cpu_count()} CPUs"),
            Finding(check="GPUs", ok=True, found=f"{len(self.devices)} ({gpus})" if gpus else "none: jobs run on CPUs"),
            Finding(
                check="GPU a worker",
                ok=not self.devices or self.settings.workers <= len(self.devices),
                found=f"{self.settings.workers} workers on {len(self.devices)} GPUs",
                remedy=f"set local.workers to {len(self.devices)}, or several jobs share one GPU's memory",
            ),
            Finding(
                check="free disk",
                ok=free_gb >= 1,
                found=f"{free_gb:.1f} GB at {self.folder}",
                remedy="make room or put the sweep elsewhere",
            ),
        ]


def visible_gpus() -> tuple[str, ...]:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES leaves, by the names that it gives them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1", "NoDevFiles"))
    numbers = (path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
    return tuple(sorted((number for number in numbers if number.isdigit()), key=int))


def _gpu_name() -> str:
    """What the NVIDIA driver calls this machine's first GPU; empty where it does not say."""
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "Model":
                return value.strip()
    return ""


def _existing(folder: Path) -> Path:
    """The nearest folder above that exists."""
    return folder if folder.is_dir() or folder == folder.parent else _existing(folder.parent)
