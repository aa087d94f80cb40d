"""A real server in a process of its own, started through the command line as a user would."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

DEFAULT_PORT = 8000
START_SECONDS = 180


@dataclass(frozen=True)
class Server:
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return answer.read().decode()

    def rests(self) -> bool:
        """Whether every visit ends within moments: a client has its last event a little before that."""
        deadline = time.monotonic() + 30
        while json.loads(self.get("/load"))["server_load"]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def family(self) -> list[psutil.Process]:
        """The front and every process below it."""
        front = psutil.Process(self.process.pid)
        return [front, *front.children(recursive=True)]


def free_port(wanted: int = 0) -> int:
    """`wanted` when nobody listens there, else any free port."""
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serve(*flags: str, port: int = 0, env: dict[str, str] | None = None) -> Iterator[Server]:
    """Starts `octavo serve`, waits until it is healthy, and ends it with SIGTERM."""
    port = free_port(port)
    command = [sys.executable, "-m", "octavo.cli.main", "serve", *flags, "--port", str(port)]
    with tempfile.TemporaryDirectory() as folder:
        if "--files-dir" not in flags:  # what a test leaves there no other server shall take up
            command += ["--files-dir", f"{folder}/files"]
        log = Path(folder) / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env)
        server = Server(port, process, log)
        try:
            _wait(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError("the server did not end on SIGTERM") from None


def _wait(server: Server) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended at start:\n{server.log.read_text()}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            server.get("/health")
            return
        time.sleep(0.1)
    raise AssertionError(f"the server was not ready after {START_SECONDS} s:\n{server.log.read_text()}")
