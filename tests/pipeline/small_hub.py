"""A model hub on localhost, for huggingface_hub's own client: what it answers, and a log of what was asked."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories of files, as one commit each.

    Attributes:
        repositories: by id, the bytes of each file.
        gated: ids whose files nobody gets.
        cut: paths whose first download ends half way.
        asked: method, path and Range header of each request.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.cut: set[str] = set()
        self.asked: list[tuple[str, str, str | None]] = []
        self.endpoint = ""

    def add(self, repo_id: str, folder: Path) -> None:
        """Serve a folder."""
        files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        self.repositories[repo_id] = files

    def downloaded(self) -> list[str]:
        """The files whose bytes were asked for, in order."""
        return [
            path.partition("/resolve/")[2].split("/", 1)[1]
            for m, path, _ in self.asked
            if m == "GET" and "/resolve/" in path
        ]


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that listens on a port of its own."""
    hub = Hub()

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._respond()

    def do_GET(self) -> None:
        self._respond()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _respond(self) -> None:
        path = self.path.partition("?")[0]
        self.served.asked.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._describe("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve("/".join(parts[:2]), "/".join(parts[4:]))
        else:
            self._send(404, b"")

    def _describe(self, repo_id: str, further: list[str]) -> None:
        files = self.served.repositories.get(repo_id)
        if files is None:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif further[:1] == ["tree"]:
            entries = [{"type": "file", "path": n, "size": len(b), "oid": _etag(b)} for n, b in files.items()]
            self._send(200, json.dumps(entries).encode())
        else:
            siblings = [{"rfilename": name} for name in files]
            about = {"id": repo_id, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": siblings}
            self._send(200, json.dumps(about).encode())

    def _resolve(self, repo_id: str, name: str) -> None:
        files = self.served.repositories.get(repo_id)
        if files is None or name not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound" if files else "RepoNotFound"})
        elif repo_id in self.served.gated:
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        else:
            self._send_file(files[name], is_cut=self.command == "GET" and name in self.served.cut, name=name)

    def _send_file(self, content: bytes, is_cut: bool, name: str) -> None:
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        first = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")
        if int(first):
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        part = content[int(first) :]
        if is_cut:
            self.served.cut.discard(name)
            self._send(200, part[: len(part) // 2], headers, length=len(part))
            self.close_connection = True
        else:
            self._send(206 if int(first) else 200, part, headers)

    def _send(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
