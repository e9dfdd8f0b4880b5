"""An HTTP server that answers the requests of wandb's client for one run, and keeps its rows."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = {"id": "e", "name": "me"}
PROJECT = {"id": "p", "name": "meditron", "entity": ENTITY}


class WandbServer(ThreadingHTTPServer):
    """A server on a free port of this machine."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows: list[str] = []
        """The history, a JSON object per row."""
        self.config: dict[str, Any] = {}
        self.run: dict[str, Any] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def history(self) -> list[dict[str, Any]]:
        return [json.loads(row) for row in self.rows]

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a query of GraphQL."""
        if "upsertBucket" in query:
            return {"upsertBucket": self._upsert(values)}
        if "historyTail" in query:
            return {"model": {**PROJECT, "bucket": self.run and self._resumable(self.run)}}
        if "createRunFiles" in query:
            files = [{"name": n, "uploadUrl": f"{self.url}/{n}"} for n in values["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": [], "cliVersionInfo": {}}}
        if "viewer" in query:
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}"}}
        return {}

    def _upsert(self, values: dict[str, Any]) -> dict[str, Any]:
        is_new = self.run is None
        self.run = {"id": "r", "name": values["name"], "displayName": values.get("displayName")}
        self.config.update(json.loads(values.get("config") or "{}"))
        more = {"project": PROJECT, "config": "{}", "historyLineCount": len(self.rows)}
        return {"bucket": {**self.run, **more}, "inserted": is_new}

    def _resumable(self, run: dict[str, Any]) -> dict[str, Any]:
        counts = {"historyLineCount": len(self.rows), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps(self.rows[-1:]), "eventsTail": "[]"}
        last = self.rows[-1] if self.rows else "{}"
        texts = {"config": "{}", "summaryMetrics": last, "wandbConfig": '{"t": 1}'}
        return {**run, **counts, **tails, **texts, "tags": []}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/graphql":
            asked = json.loads(body)
            data = self.server.answer(asked["query"], asked.get("variables") or {})
            self._reply({"data": data})
            return
        if self.path.endswith("/file_stream"):
            history = (json.loads(body).get("files") or {}).get("wandb-history.jsonl")
            if history:  # a client writes at the offset that it knows
                begin, rows = history["offset"], history["content"]
                self.server.rows[begin : begin + len(rows)] = rows
        self._reply({})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _reply(self, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
