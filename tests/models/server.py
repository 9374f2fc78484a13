"""A server of one file on this machine, which can be told to misbehave."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What it does, and what it was asked.

    Attributes:
        body: of the file.
        cut: bytes after which each connection breaks; 0 for never.
        status: other than 200, it answers with that and nothing.
        ranges: whether it can begin in the middle.
        asked: the header Range of each request, or None.
        gate: a request is not answered before this is set.
    """

    body: bytes
    cut: int = 0
    status: int = 200
    ranges: bool = True
    asked: list[str | None] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@contextmanager
def serving(body: bytes) -> Iterator[Server]:
    """A server that runs while the block does."""
    server = Server(body)
    server.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(wanted := self.headers["Range"])
            server.gate.wait(240)
            start = int(match[1]) if server.ranges and (match := re.fullmatch(r"bytes=(\d+)-", wanted or "")) else None
            rest = server.body[start or 0 :]
            self.send_response(server.status if server.status != 200 else 200 if start is None else 206)
            if start is not None:
                self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
            self.send_header("Content-Length", str(len(rest) if server.status == 200 else 0))
            self.end_headers()
            if server.status == 200:
                self.wfile.write(rest[: server.cut] if server.cut else rest)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.url = f"http://127.0.0.1:{http.server_address[1]}/model.safetensors"
    try:
        yield server
    finally:
        server.gate.set()
        http.shutdown()
        thread.join()
        http.server_close()
