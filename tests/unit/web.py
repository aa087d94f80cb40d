"""A small web server for tests, with ranges and with ways to misbehave."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Site:
    """`pages`: path -> bytes or (status, headers, bytes). `asked`: (method, path, range) in order."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.break_after: list[int] = []  # bytes after which the next answers break off
        self.ranges = True
        self.posted: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.put: dict[str, bytes] = {}
        self.url = ""


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            site.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"null"))
            site.keys.append(self.headers.get("Authorization"))
            self.do_GET()

        def do_PUT(self) -> None:
            site.put[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            path, wanted = self.path.partition("?")[0], self.headers.get("Range")
            site.asked.append((self.command, path, wanted))
            page = site.pages.get(path, (404, {}, b"no such page"))
            status, headers, body = page if isinstance(page, tuple) else (200, {}, page)
            if wanted and site.ranges and status == 200:
                first = int(wanted.removeprefix("bytes=").split("-")[0])
                status, body = (206, body[first:]) if first < len(body) else (416, b"")
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if site.break_after and status in (200, 206):
                self.wfile.write(body[: site.break_after.pop(0)])
                self.close_connection = True
                return
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
