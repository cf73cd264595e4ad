"""What an address says that is not Ray's dashboard: each cause has its own remedy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.backend import ClusterUnavailable, ClusterUsageError
from cluster.ray import api
from cluster.ray.api import RayApi
from tests.fake_ray import fake_ray

GRPC = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00"  # HTTP/2 SETTINGS, as the GCS answers


@contextmanager
def answering(content: bytes) -> Iterator[int]:
    """The port of a server that answers each connection with some bytes and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(content)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def test_https_where_plain_http_is_spoken() -> None:
    """The address to write instead is named."""
    with fake_ray() as server:
        secure = server.address.replace("http://", "https://")
        with pytest.raises(ClusterUsageError, match=f"does not speak TLS .*: write {server.address}"):
            RayApi(secure).versions()


def test_a_port_that_speaks_something_else() -> None:
    """The dashboard's own port is named."""
    with (
        answering(GRPC) as port,
        pytest.raises(ClusterUsageError, match=r"not in plain HTTP.*the dashboard's port is 8265"),
    ):
        RayApi(f"http://127.0.0.1:{port}").versions()


@pytest.mark.parametrize("content", [GRPC, b""], ids=["bytes", "closed"])
def test_rays_own_other_ports_are_known(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """6379 is what `ray start` shows first, and not what is asked for."""
    with answering(content) as port:
        monkeypatch.setattr(api, "_OTHER_PORTS", {port: "that of Ray's own traffic (GCS)"})
        with pytest.raises(ClusterUsageError, match=r"Ray's own traffic \(GCS\); the dashboard's port is 8265"):
            RayApi(f"http://127.0.0.1:{port}").versions()


def test_a_connection_that_is_broken_off_says_nothing_of_a_job() -> None:
    """A busy head does that too: it is asked again. Where TLS may be the cause, that is said."""
    with (
        answering(b"") as port,
        pytest.raises(ClusterUnavailable, match="an address that speaks TLS begins with https"),
    ):
        RayApi(f"http://127.0.0.1:{port}").versions()


def test_plain_http_at_a_proxys_port_for_tls() -> None:
    """A proxy says so with 400, and the address to write is named."""
    with fake_ray() as server:
        said = "400 The plain HTTP request was sent to HTTPS port"
        server.serve("/api/v0/cluster_metadata", said, status=400)
        secure = server.address.replace("http://", "https://")
        with pytest.raises(ClusterUsageError, match=f"write {secure}"):
            RayApi(server.address).versions()
