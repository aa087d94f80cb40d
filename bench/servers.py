"""Servers side by side: Octavo's, llama.cpp's, vLLM's, each started as it is best for this load."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench.load import Address
from bench.peers import Process
from bench.record import ROOT

_PATIENCE, _PAUSE = 300.0, 0.1  # seconds for a start, and between two looks


class Server:
    """One running server."""

    def __init__(self, name: str, words: list[object], port: int, log: Path, **environment: str) -> None:
        self.name, self.words, self._port = name, words, port
        self.process = Process(words, log / f"{name}.server.log", talks=False, **environment)
        try:
            self.address = Address("127.0.0.1", port, self._model())
        except BaseException:
            self.process.close()
            raise

    def _model(self) -> str:
        """Waits until it is ready; the first name it lists."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            if self.process.ended():
                break
            with contextlib.suppress(OSError):
                self.get("/health")
                return str(self.get("/v1/models")["data"][0]["id"])
            time.sleep(_PAUSE)
        raise SystemExit(f"{self.name} did not start: {self.process.tail()}")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=5) as answer:
            return json.loads(answer.read() or b"{}")

    def facts(self) -> dict[str, Any]:
        """How it was started, without folders of this machine."""
        words = [Path(str(word)).name if str(word).startswith("/") else str(word) for word in self.words]
        return {"command": words}


def octavo(model: Path, threads: int, log: Path, more: str) -> Server:
    port = free_port()
    words = [sys.executable, "-m", "octavo", "serve", model, "--port", port, *shlex.split(more)]
    return Server("octavo", words, port, log, PYTHONPATH=str(ROOT), OMP_NUM_THREADS=str(threads))


def llama(folder: Path, model: Path, threads: int, log: Path, slots: int, room: int, more: str) -> Server:
    """`room`: tokens of context of each slot."""
    port = free_port()
    words = [
        folder / "llama-server", "-m", model, "-t", threads, "-np", slots, "-c", slots * room,
        "--host", "127.0.0.1", "--port", port, "--no-webui", "-lv", 1, *shlex.split(more),
    ]  # fmt: skip
    return Server("llama-server", words, port, log)


def vllm(python: Path, model: Path, log: Path, room: int, environment: dict[str, str], more: str) -> Server:
    port = free_port()
    words = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--dtype", "bfloat16",
        "--max-model-len", room, "--host", "127.0.0.1", "--port", port, *shlex.split(more),
    ]  # fmt: skip
    return Server("vllm", words, port, log, **environment)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
