"""The few answers of Ray's dashboard that the backend reads, from a server that a test makes say what no Ray at hand
would."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from platform import python_version
from typing import Any


class FakeRay(ThreadingHTTPServer):
    """Answers as this environment's Ray would; `answers` maps a path to a status and a body."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, tuple[int, Any]] = {}
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.serve(
            "/api/v0/cluster_metadata", {"data": {"rayVersion": version("ray"), "pythonVersion": python_version()}}
        )
        nodes = [{"node_name": "n0", "node_ip": "10.0.0.1", "state": "ALIVE", "resources_total": {"GPU": 8, "CPU": 8}}]
        self.serve("/api/v0/nodes", {"data": {"result": {"result": nodes}}})

    @property
    def address(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def serve(self, path: str, body: Any, status: int = 200) -> None:
        """Answer like this from now on."""
        self.answers[path] = (status, body)


class _Handler(BaseHTTPRequestHandler):
    server: FakeRay

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        self.server.tokens.append(self.headers["Authorization"])
        status, body = self.server.answers.get(path, (404, "no such thing"))
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def fake_ray() -> Iterator[FakeRay]:
    """One that listens."""
    server = FakeRay()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
