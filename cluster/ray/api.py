"""A Ray cluster's own HTTP interface, with a time limit on every call.

Ray's client library answers to no deadline (a dead address costs it 20 s and more) and takes a second to import; the
interface behind it is documented and small. A token (`RAY_AUTH_MODE=token`) is found where Ray itself looks.

Source: docs.ray.io, "Ray Jobs REST API" and "Ray token authentication"; ray/dashboard/modules/{job,reporter,state}.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from cluster.backend import ClusterUnavailable, ClusterUsageError

TIMEOUT_S: Final = 10.0  # for one call; the longest is starting a job, some tenths of a second
_OTHER_PORTS: Final = {6379: "that of Ray's own traffic (GCS)", 10001: "that of Ray's client"}
_ITS_PORT: Final = "the dashboard's port is 8265, or what `ray start --head` printed"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class RayJobStatus(StrEnum):
    """What Ray says of a Ray Job: here, of a dispatcher. Source: ray.job_submission.JobStatus."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    def is_over(self) -> bool:
        """The process has ended."""
        return self not in (RayJobStatus.PENDING, RayJobStatus.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """A Ray Job."""

    status: RayJobStatus
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RayNode:
    """A node that the head counts as alive."""

    name: str
    ip: str
    n_gpus: float
    n_cpus: float
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """What a cluster runs."""

    ray: str
    python: str


class RayApi:
    """The cluster whose dashboard is at `address`, `http://HOST:PORT`. Creating the object asks nothing."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        host = urllib.parse.urlsplit(self.address).hostname or ""
        proxies: dict[str, str] | None = (
            {} if host in LOOPBACK else None
        )  # a tunnel's end is here, whatever http_proxy says
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))

    def versions(self) -> Versions:
        """The versions that the cluster was started with. Raises: ClusterUsageError (not Ray), ClusterUnavailable."""
        try:
            data = self._call("/api/v0/cluster_metadata")["data"]
            return Versions(ray=data["rayVersion"], python=data["pythonVersion"])
        except (KeyError, TypeError, ValueError, NotFound):
            raise ClusterUsageError(
                f"{self.address} answers, but not as Ray's dashboard; `ray start --head` prints its address"
            ) from None

    def nodes(self) -> list[RayNode]:
        """The nodes that are alive. Raises: ClusterUnavailable."""
        rows = self._call("/api/v0/nodes?detail=1&limit=10000")["data"]["result"]["result"]
        return [
            RayNode(
                name=row["node_name"],
                ip=row["node_ip"],
                n_gpus=row["resources_total"].get("GPU", 0.0),
                n_cpus=row["resources_total"].get("CPU", 0.0),
                resources=row["resources_total"],
            )
            for row in rows
            if row["state"] == "ALIVE"
        ]

    def start_job(self, submission_id: str, entrypoint: str, metadata: Mapping[str, str]) -> None:
        """Have `entrypoint` run on the head node, unless a job of this id is there. Raises: ClusterUnavailable."""
        body = {"entrypoint": entrypoint, "submission_id": submission_id, "metadata": dict(metadata)}
        try:
            self._call("/api/jobs/", body)
        except ClusterUnavailable:
            if self.job(submission_id) is None:  # refused, or accepted and answered too late
                raise

    def job(self, submission_id: str) -> RayJob | None:
        """The Ray Job of this id, or None where the cluster does not know it. Raises: ClusterUnavailable."""
        try:
            raw = self._call(f"/api/jobs/{urllib.parse.quote(submission_id)}")
        except NotFound:
            return None
        return RayJob(status=RayJobStatus(raw["status"]), message=raw.get("message") or "")

    def stop_job(self, submission_id: str) -> None:
        """Have Ray end a job's process, and its tasks with it. Raises: ClusterUnavailable."""
        with suppress(NotFound):
            self._call(f"/api/jobs/{urllib.parse.quote(submission_id)}/stop", method="POST")

    def delete_job(self, submission_id: str) -> None:
        """Have Ray forget a job that has ended. Raises: ClusterUnavailable."""
        with suppress(NotFound):
            self._call(f"/api/jobs/{urllib.parse.quote(submission_id)}", method="DELETE")

    def job_log(self, submission_id: str) -> str:
        """What the Ray Job's process has printed. Raises: ClusterUnavailable."""
        try:
            return str(self._call(f"/api/jobs/{urllib.parse.quote(submission_id)}/logs")["logs"])
        except NotFound:
            return ""

    def asks_for_token(self) -> bool:
        """Whether a caller without Ray's token is refused. Raises: ClusterUnavailable."""
        try:
            self._call("/api/v0/nodes?limit=1", headers={})
        except ClusterUsageError:
            return True
        return False

    def _call(
        self,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        headers = _authorization() if headers is None else headers
        request = urllib.request.Request(self.address + path, headers=dict(headers), method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from None
        except TimeoutError:
            raise ClusterUnavailable(f"Ray at {self.address} did not answer within {TIMEOUT_S:.0f} s") from None
        except urllib.error.URLError as error:
            raise self._unreached(error.reason) from None
        except (http.client.HTTPException, ConnectionError) as error:
            raise self._broken(error) from None
        except OSError as error:
            raise ClusterUnavailable(f"Ray at {self.address} broke the connection: {error}") from None

    def _unreached(self, reason: object) -> Exception:
        """Why there was no answer, by its cause."""
        if isinstance(reason, socket.gaierror):
            return ClusterUsageError(f"no such host: {self.address} ({reason.strerror})")
        if isinstance(reason, ssl.SSLCertVerificationError):
            said = f"the certificate of {self.address} is not trusted here ({reason.verify_message})"
            return ClusterUsageError(f"{said}: name the file of its authority in SSL_CERT_FILE")
        if isinstance(reason, ssl.SSLError):
            plain = self.address.replace("https://", "http://", 1)
            return ClusterUsageError(f"{self.address} does not speak TLS ({reason.reason}): write {plain}")
        return ClusterUnavailable(f"no Ray at {self.address}: {reason}")

    def _broken(self, error: Exception) -> Exception:
        """Why a connection gave no answer. A busy head breaks one off too, which says nothing of the address."""
        is_broken_off = isinstance(error, ConnectionError | http.client.IncompleteRead)
        if is_broken_off and urllib.parse.urlsplit(self.address).port not in _OTHER_PORTS:
            hint = "; an address that speaks TLS begins with https://" if self.address.startswith("http://") else ""
            return ClusterUnavailable(f"Ray at {self.address} broke the connection: {error}{hint}")
        return self._not_http(type(error).__name__)

    def _not_http(self, what: str) -> Exception:
        """The error of an address that answers with something else than HTTP."""
        port = urllib.parse.urlsplit(self.address).port
        if port in _OTHER_PORTS:
            return ClusterUsageError(f"{self.address}: port {port} is {_OTHER_PORTS[port]}; {_ITS_PORT}")
        secure = self.address.replace("http://", "https://", 1)
        return ClusterUsageError(
            f"{self.address} answers, but not in plain HTTP ({what}): write {secure} where it speaks TLS; {_ITS_PORT}"
        )

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        text = error.read(20_000).decode(errors="replace").strip()
        if error.code == 404:
            return NotFound(text)
        if error.code == 400 and "https" in text.lower():  # a proxy that hears plain HTTP at its port for TLS
            return self._not_http("400: it asks for HTTPS")
        if error.code in (401, 403):
            return ClusterUsageError(
                f"Ray at {self.address} wants its token ({error.code}): set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                "RAY_AUTH_TOKEN_PATH, or put it into ~/.ray/auth_token"
            )
        return ClusterUnavailable(
            f"Ray at {self.address} answered {error.code}: {text.splitlines()[-1] if text else ''}"
        )


class NotFound(Exception):
    """The cluster has nothing of that name."""


def _authorization() -> dict[str, str]:
    """The header that carries Ray's token, where there is to be one."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    if not token:
        path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "") or "~/.ray/auth_token").expanduser()
        try:
            token = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ClusterUsageError(f"RAY_AUTH_MODE=token, but no token: {path}: {error.strerror}") from None
    return {"Authorization": f"Bearer {token.strip()}"}
