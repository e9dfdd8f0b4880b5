"""Servers of this machine that receive notifications: HTTP, SMTP, and one that never answers."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .ranks import PATIENCE

PATIENT = f"cto={PATIENCE:.0f}&rto={PATIENCE:.0f}"
"""Parameters of a service's URL: apprise waits 4 seconds, by default, also for a busy machine."""


def need(*names: str) -> None:
    """Skip a test without these libraries; fail it when ``CI`` is ``true``."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            reason = f"{name} is not installed: `make setup`"
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@dataclass
class Requests:
    """The requests that an HTTP server received, and its answer."""

    port: int = 0
    hosts: list[str] = field(default_factory=list)
    """Of connections through the proxy."""
    paths: list[str] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    status: int = 200

    def json(self) -> list[Any]:
        return [json.loads(body) for body in self.bodies]


def certificate(folder: Path, *hosts: str) -> Path:
    """Make a key and a certificate of hosts, in one file that clients trust too."""
    names = ",".join(f"DNS:{host}" for host in hosts)
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={hosts[0]}"]
    words += ["-addext", f"subjectAltName={names}", "-keyout", "key.pem", "-out", "pair.pem"]
    subprocess.run(["openssl", "req", *words], cwd=folder, check=True, capture_output=True)
    pair = folder / "pair.pem"
    pair.write_text(pair.read_text() + (folder / "key.pem").read_text())
    return pair


@contextmanager
def http_server(pair: Path | None = None) -> Iterator[Requests]:
    """Run an HTTP server that takes every POST.

    Args:
        pair: it is a proxy too, and answers as the hosts of this certificate.
    """
    received = Requests()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.paths.append(self.path)
            received.bodies.append(body.decode())
            received.headers.append(dict(self.headers))
            answer = b"ok" if received.status == 200 else self.path.encode()
            self.answer(received.status, answer)

        def do_GET(self) -> None:
            received.paths.append(self.path)
            self.answer(200, b"<html>log in</html>")

        def answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            if status in (302, 307):
                self.send_header("Location", "/login")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_CONNECT(self) -> None:
            self.send_response(200)
            self.end_headers()
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair)
            self.connection = context.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", buffering=0)
            self.close_connection = False
            received.hosts.append(self.path)

        def finish(self) -> None:
            super().finish()
            self.connection.close()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def smtp_server(
    refuses: bool = False,
) -> Iterator[tuple[int, list[tuple[list[str], EmailMessage]]]]:
    """Run a mail server; yield its port and the mails it received, with their receivers."""
    from aiosmtpd.controller import Controller

    mails: list[tuple[list[str], EmailMessage]] = []

    class Handler:
        async def handle_RCPT(self, server, session, envelope, address, options):
            if refuses:
                return f"550 {address} is not known here"
            envelope.rcpt_tos.append(address)
            return "250 OK"

        async def handle_DATA(self, server, session, envelope):
            mail = message_from_bytes(envelope.content, policy=policy.default)
            mails.append((list(envelope.rcpt_tos), mail))
            return "250 OK"

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        class Listener(Controller):
            def _create_server(self):
                return self.loop.create_server(self._factory_invoker, sock=server)

        controller = Listener(Handler(), "127.0.0.1", port, ready_timeout=PATIENCE)
        controller.start()
        try:
            yield port, mails
        finally:
            controller.stop()


@contextmanager
def silent_server() -> Iterator[int]:
    """Accept connections and never answer; yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def program(path: Path, *lines: str) -> Path:
    """Write a program in sh."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def sendmail(folder: Path) -> Path:
    """Write a program sendmail that keeps its arguments and its mails in a folder."""
    return program(
        folder / "bin/sendmail",
        f"number=$(ls {folder}/*.mail 2>/dev/null | wc -l)",
        f'cat >{folder}/.part; echo "$@" >{folder}/$number.arguments',
        f"mv {folder}/.part {folder}/$number.mail",
    )
