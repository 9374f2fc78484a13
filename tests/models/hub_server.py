"""A double of the Hugging Face Hub on this machine: as much of its HTTP API as a push and a load ask for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN = "hf_" + "s3cretS3cretS3cret"


@dataclass
class Hub:
    """What it holds, and what it was asked.

    Attributes:
        private: repository -> whether it is.
        files: repository -> commit -> name -> content; the last commit is `main`.
        objects: sha256 -> content (LFS).
        asked: method and path of each request.
        tokens: what stood in Authorization where objects were asked for, which lie on another host.
        status: other than 0, everything is answered with it.
        damaged: whether objects are given wrongly.
    """

    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    status: int = 0
    damaged: bool = False
    url: str = ""
    store: str = ""

    def content(self, repo: str, revision: str, name: str) -> tuple[str, bytes] | None:
        commits = self.files.get(repo, {})
        commit = next(reversed(commits), "") if revision == "main" else revision
        found = commits.get(commit, {}).get(name)
        return None if found is None else (commit, found)


@contextmanager
def serving_hub() -> Iterator[Hub]:
    """A Hub that runs while the block does, and beside it, at another port, the store of its objects."""
    hub = Hub()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"] or 0))

        def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key.replace("_", "-"), value)
            self.send_header("Content-Length", headers.get("size", str(len(data))))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def json(self, value: object, status: int = 200) -> None:
            self.answer(status, json.dumps(value).encode(), Content_Type="application/json")

        def log_message(self, *args: object) -> None:
            pass

    class Api(Answers):
        def allowed(self, repo: str = "", write: bool = False) -> bool:
            hub.asked.append(f"{self.command} {self.path}")
            known = self.headers["Authorization"] == f"Bearer {TOKEN}"
            if hub.status:
                self.body()
                self.answer(hub.status)
            elif not known and (write or hub.private.get(repo)):
                self.body()
                self.answer(401, X_Error_Code="RepoNotFound")
            else:
                return True
            return False

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            if self.path == "/api/whoami-v2":
                if self.allowed(write=True):
                    self.json({"name": "someone", "type": "user"})
                return
            match = re.fullmatch(r"/api/models/(\w+/\w+)", self.path)
            if match:
                if self.allowed(match[1]):
                    self.json({"id": match[1], "private": hub.private[match[1]], "tags": [], "siblings": []})
                return
            match = re.fullmatch(r"/(\w+/[\w-]+)/resolve/([^/]+)/(.+)", unquote(self.path))
            if match is None:
                return self.answer(404)
            if not self.allowed(match[1]):
                return None
            if match[1] not in hub.files:
                return self.answer(404, X_Error_Code="RepoNotFound")
            if match[2] != "main" and match[2] not in hub.files[match[1]]:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            found = hub.content(*match.groups())
            if found is None:
                return self.answer(404, X_Error_Code="EntryNotFound")
            commit, data = found
            sha256 = hashlib.sha256(data).hexdigest()
            if sha256 not in hub.objects:
                return self.answer(200, data, ETag='"abc"', X_Repo_Commit=commit)
            self.answer(
                302,
                Location=f"{hub.store}/{sha256}?signature=x",
                X_Linked_ETag=f'"{sha256}"',
                X_Linked_Size=str(len(data)),
                X_Repo_Commit=commit,
            )

        def do_POST(self) -> None:
            if not self.allowed(write=True):
                return
            data = self.body()
            if self.path == "/api/repos/create":
                asked = json.loads(data)
                repo = f"{asked.get('organization', 'someone')}/{asked['name']}"
                there = repo in hub.private
                hub.private.setdefault(repo, asked.get("visibility") == "private" or bool(asked.get("private")))
                self.json({"url": f"{hub.url}/{repo}"}, 409 if there else 200)
            elif self.path.startswith("/api/validate-yaml"):
                self.json({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(data)["files"]
                kinds = [
                    {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith("safetensors") else "regular"}
                    for one in files
                ]
                self.json({"files": [{**kind, "shouldIgnore": False} for kind in kinds]})
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = json.loads(data)["objects"]
                actions = [
                    {**one, "actions": {"upload": {"href": f"{hub.store}/{one['oid']}", "header": {}}}}
                    for one in objects
                ]
                self.json({"transfer": "basic", "objects": actions})
            elif "/commit/" in self.path:
                repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                made = {}
                for line in data.splitlines():
                    one = json.loads(line)
                    if one["key"] == "file":
                        made[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
                    elif one["key"] == "lfsFile":
                        made[one["value"]["path"]] = hub.objects[one["value"]["oid"]]
                commit = hashlib.sha1(data).hexdigest()
                hub.files.setdefault(repo, {})[commit] = made
                self.json({"success": True, "commitOid": commit, "commitUrl": f"{hub.url}/{repo}/commit/{commit}"})
            else:
                self.answer(404)

    class Store(Answers):
        def do_PUT(self) -> None:
            data = self.body()
            assert hashlib.sha256(data).hexdigest() == self.path[1:]
            hub.objects[self.path[1:]] = data
            self.answer(200)

        def do_GET(self) -> None:
            hub.tokens.append(self.headers["Authorization"])
            data = hub.objects[self.path[1:].partition("?")[0]]
            self.answer(200, data[:-1] + b"?" if hub.damaged else data)

    servers = [ThreadingHTTPServer(("127.0.0.1", 0), kind) for kind in (Api, Store)]
    hub.url, hub.store = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    hub.store = hub.store.replace("127.0.0.1", "localhost")  # another host, which must not see the token
    threads = [threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}) for one in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()
