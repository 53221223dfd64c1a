"""A stand-in of the hub's HTTP interface on loopback, for uploads and downloads of models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class StandIn:
    """What the hub holds and was asked.

    Attributes:
        url: where it listens.
        files: of each repository, by path.
        private: repositories that ask for the token ``secret``.
        revisions: that there are.
        asked: each request: method, path and the token it came with.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    revisions: set[str] = field(default_factory=lambda: {"main", "v1", COMMIT})
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)


@contextmanager
def hub_stand_in() -> Iterator[StandIn]:
    """Listen on loopback inside."""
    state = StandIn()

    class Handler(_Handler):
        hub = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def do_GET(self) -> None:
        self._file(with_body=True)

    def do_POST(self) -> None:
        body = self._body()
        self._note()
        if self.path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            self.hub.files.setdefault(repo, {})
            # The client has said it in either way.
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.hub.private.add(repo)
            self._json({"url": f"{self.hub.url}/{repo}", "id": repo})
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/(.+)", self.path):
            files = json.loads(body)["files"]
            answer = [{"path": f["path"], "uploadMode": "regular"} for f in files]
            self._json({"files": [{**each, "shouldIgnore": False} for each in answer]})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/([^?]+).*", self.path):
            for line in body.decode().splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    content = base64.b64decode(item["value"]["content"])
                    self.hub.files[found[1]][item["value"]["path"]] = content
            self._json(
                {"commitUrl": f"{self.hub.url}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT}
            )
        elif self.path.startswith("/api/validate-yaml"):
            self._json({"errors": [], "warnings": []})
        else:
            self._json({"error": f"{self.path}: not stood in for"}, 501)

    def _file(self, *, with_body: bool) -> None:
        self._note()
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if found is None:
            self._json({"error": f"{self.path}: not stood in for"}, 501)
            return
        repo, revision, path = found.groups()
        is_let_in = self.headers.get("Authorization") == "Bearer secret"
        content = self.hub.files.get(repo, {}).get(path)
        if repo not in self.hub.files or (repo in self.hub.private and not is_let_in):
            self._json({}, 401, {"X-Error-Code": "RepoNotFound"})
        elif revision not in self.hub.revisions:
            self._json({}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif content is None:
            self._json({}, 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self._send(200, content, {"ETag": etag, "X-Repo-Commit": COMMIT}, with_body=with_body)

    def _note(self) -> None:
        token = self.headers.get("Authorization")
        self.hub.asked.append((self.command, self.path, token))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(
        self, answer: object, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self._send(status, json.dumps(answer).encode(), headers or {}, with_body=True)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], *, with_body: bool
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(content)
