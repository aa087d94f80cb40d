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

    def listens(self) -> bool:
        """Whether it is this process that answers on the port."""
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).net_connections("tcp")
            return any(one.status == psutil.CONN_LISTEN and one.laddr.port == self.port for one in found)
        return False

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
    command = [sys.executable, "-m", "octavo.cli.main", "serve", *flags]
    with tempfile.TemporaryDirectory() as folder:
        if "--files-dir" not in flags:  # what a test leaves there no other server shall take up
            command += ["--files-dir", f"{folder}/files"]
        server = _start(command, port, Path(folder) / "log", env)
        if not _wait(server):  # somebody was faster: any connection may have taken a port that was free
            server = _start(command, 0, server.log, env)
            assert _wait(server), server.log.read_text()
        try:
            yield server
        finally:
            _end(server.process)


def _start(command: list[str], port: int, log: Path, env: dict[str, str] | None) -> Server:
    port = free_port(port)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=out, stderr=subprocess.STDOUT, env=env
        )
    return Server(port, process, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError("the server did not end on SIGTERM") from None


def _wait(server: Server) -> bool:
    """False when its port was taken."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            told = server.log.read_text()
            assert f"port {server.port} is in use" in told, f"the server ended at start:\n{told}"
            return False
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            if server.listens():
                server.get("/health")
                return True
        time.sleep(0.1)
    _end(server.process)
    raise AssertionError(f"the server was not ready after {START_SECONDS} s:\n{server.log.read_text()}")
