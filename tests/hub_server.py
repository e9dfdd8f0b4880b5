"""A Hugging Face hub on this machine: as much of its protocol as `huggingface_hub` needs to list a
revision and to read files with ranges.

Large files are answered with a redirect to another host, as the hub does; that host must not
receive the token.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 3
"""Files per page of a listing."""
CHUNK = 1 << 16


@dataclass
class Repository:
    """A repository with one commit on its branch main."""

    files: dict[str, bytes]
    commit: str = "c0ffee" + "0" * 34
    tags: tuple[str, ...] = ()
    token: str = ""
    """Of an account with access, for a gated repository."""

    sizes: dict[str, int] = field(default_factory=dict)
    """Stated sizes that differ from those of the files."""

    def has(self, revision: str) -> bool:
        return revision in ("main", self.commit, *self.tags)


@dataclass
class Faults:
    """Faults of answers with large files."""

    cut_after: int = -1
    """The connection breaks after so many bytes, once for each file in ``cut``."""
    cut: list[str] = field(default_factory=list)
    hold_after: int = -1
    """Answers stop after so many bytes until ``go_on`` is set."""
    go_on: threading.Event = field(default_factory=threading.Event)
    holding: threading.Event = field(default_factory=threading.Event)
    """Set by an answer that has stopped."""
    damaged: set[str] = field(default_factory=set)
    """Files of which one byte is wrong."""
    ignores_ranges: bool = False
    broken: int = 0
    """The status of every answer, if it is not 0."""


@dataclass
class FakeHub:
    """Repositories, by kind and name, behind an address."""

    address: str
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    tokens: list[tuple[str, str]] = field(default_factory=list)
    """Path and Authorization header of each request that had one."""
    ranges: list[tuple[str, str]] = field(default_factory=list)
    """Path and Range header of each request for a large file."""

    def add(
        self, name: str, files: dict[str, bytes], kind: str = "model", **more: str
    ) -> Repository:
        repository = Repository(files, **more)  # type: ignore[arg-type]
        self.repositories[kind, name] = repository
        return repository


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".model", ".bin", ".parquet"))


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers requests for ``server.hub``."""

    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> FakeHub:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if token := self.headers.get("Authorization"):
            self.hub.tokens.append((f"{self.headers['Host']}{url.path}", token))
        if self.hub.faults.broken:
            self.fail(self.hub.faults.broken, "")
            return
        for pattern, respond in (
            (r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", self.describe),
            (r"/cdn/(model|dataset)/([^/]+/[^/]+)/(.+)", self.large),
            (r"/(datasets/|)([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ):
            if match := re.fullmatch(pattern, unquote(url.path)):
                respond(*match.groups())
                return
        self.fail(404, "")

    def do_HEAD(self) -> None:
        """Answer with the headers of a GET; the hub does so before it redirects."""
        self.do_GET()

    def describe(self, kind: str, name: str, what: str | None, revision: str | None) -> None:
        repository = self.repository(kind, name, revision or "main")
        if repository and what == "tree":
            self.tree(repository)
        elif repository:
            self.answer({"id": name, "sha": repository.commit, "siblings": []})

    def repository(self, kind: str, name: str, revision: str) -> Repository | None:
        """Return a repository; None after a refusal, as the hub words it."""
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            self.fail(404 if "Authorization" in self.headers else 401, "RepoNotFound")
        elif not repository.has(revision):
            self.fail(404, "RevisionNotFound")
            return None
        return repository

    def tree(self, repository: Repository) -> None:
        url = urlsplit(self.path)
        cursor = int(parse_qs(url.query).get("cursor", ["0"])[0])
        entries: list[dict[str, object]] = [{"type": "directory", "path": "sub", "oid": "0"}]
        for name, content in repository.files.items():
            size = repository.sizes.get(name, len(content))
            entry = {"type": "file", "path": name, "size": size, "oid": git_id(content)}
            if is_large(name):
                digest = hashlib.sha256(content).hexdigest()
                entry["oid"] = git_id(b"pointer")
                entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 134}
            entries.append(entry)
        following = cursor + PAGE
        more = f'<{self.hub.address}{url.path}?recursive=True&cursor={following}>; rel="next"'
        self.answer(entries[cursor:following], {"Link": more} if following < len(entries) else {})

    def resolve(self, prefix: str, name: str, revision: str, path: str) -> None:
        kind = "dataset" if prefix else "model"
        repository = self.repository(kind, name, revision)
        if repository is None:
            return
        token, commit = self.headers.get("Authorization", ""), repository.commit
        if repository.token and token != f"Bearer {repository.token}":
            self.fail(403 if token else 401, "GatedRepo")
        elif path not in repository.files:
            self.fail(404, "EntryNotFound")
        elif not is_large(path):
            content = repository.files[path]
            self.answer(content, {"ETag": f'"{git_id(content)}"', "X-Repo-Commit": commit})
        else:
            content = repository.files[path]
            port = urlsplit(self.hub.address).port
            where = f"http://localhost:{port}/cdn/{kind}/{name}/{path}"
            headers = {
                "Location": where,
                "X-Repo-Commit": commit,
                "X-Linked-Size": str(len(content)),
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
            }
            self.answer(b"", headers, 302)

    def large(self, kind: str, name: str, path: str) -> None:
        content = self.hub.repositories[kind, name].files[path]
        faults, start = self.hub.faults, 0
        asked = self.headers.get("Range", "")
        self.hub.ranges.append((path, asked))
        if path in faults.damaged:
            content = bytes([content[0] ^ 1]) + content[1:]
        if asked and not faults.ignores_ranges:
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = len(content)
        if path in faults.cut:
            faults.cut.remove(path)
            end = start + faults.cut_after
            self.close_connection = True
        for place in range(start, end, CHUNK):
            if 0 <= faults.hold_after <= place and not faults.go_on.is_set():
                faults.holding.set()
                faults.go_on.wait()
            self.wfile.write(content[place : min(place + CHUNK, end)])
        self.wfile.flush()

    def answer(
        self, content: object, headers: dict[str, str] | None = None, status: int = 200
    ) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, status: int, code: str) -> None:
        self.answer(b"", {"X-Error-Code": code} if code else {}, status)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that were killed."""


@contextmanager
def running() -> Iterator[FakeHub]:
    """Run a hub in threads of this process."""
    server = Server(("127.0.0.1", 0), Handler)
    hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.faults.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join()
