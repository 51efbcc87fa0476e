"""A hub of one repository on this machine, which can be made to fail in the ways that hubs fail."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = "someone/tiny"
COMMITS = {"first": "1" * 40, "second": "2" * 40}


class Hub:
    """What it serves, how it fails, and what it was asked.

    `fault`: a status code for everything; or, of weights, "slow": in small pieces; "half": the
    first two answers end in their middle; "cut": each answer ends before it begins.
    """

    def __init__(self, folders: dict[str, Path]) -> None:
        self.folders = folders
        """Commit -> its files."""
        self.main = COMMITS["first"]
        self.fault: int | str = ""
        self.num_halved = 0
        self.asked: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self})
        )
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        hub = self.hub
        path = self.path.partition("?")[0]
        hub.asked[f"{self.command} {path}"] += 1
        if isinstance(hub.fault, int):
            self._send(hub.fault, b"on purpose")
        elif path.startswith(f"/{NAME}/resolve/"):
            revision, _, name = path.removeprefix(f"/{NAME}/resolve/").partition("/")
            self._send_file(hub.main if revision == "main" else revision, name, has_body=has_body)
        elif path.startswith(f"/api/models/{NAME}") and "/tree/" not in path:
            self._send(
                200, json.dumps({"id": NAME, "sha": hub.main, "tags": [], "siblings": []}).encode()
            )
        else:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def _send_file(self, commit: str, name: str, *, has_body: bool) -> None:
        hub = self.hub
        if commit not in hub.folders:
            return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        file = hub.folders[commit] / name
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = file.read_bytes()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                   "Accept-Ranges": "bytes"}  # fmt: skip
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(
            206 if start else 200,
            content[start:],
            headers,
            is_weights=name.endswith(".safetensors"),
        )

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        is_weights: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        fault = self.hub.fault if is_weights else ""
        try:
            if fault == "slow":
                for position in range(0, len(body), len(body) // 40):
                    self.wfile.write(body[position : position + len(body) // 40])
                    time.sleep(0.05)
            elif fault == "cut" or (fault == "half" and self.hub.num_halved < 2):
                self.hub.num_halved += 1
                self.wfile.write(body[: len(body) // 2] if fault == "half" else b"")
                self.close_connection = True
            else:
                self.wfile.write(body)
        except OSError:  # whoever asked is gone
            self.close_connection = True
