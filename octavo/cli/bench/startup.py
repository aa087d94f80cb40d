"""`octavo bench startup`: from starting a server's process to its first streamed token."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO, Any

import httpx

from octavo.cli.bench import record
from octavo.cli.client import event_of
from octavo.config import env
from octavo.config.flags import Parser
from octavo.core.errors import Fault

_PAUSE = 0.02  # seconds between two looks at a server that does not answer yet
_PATIENCE = 600.0


def run(words: list[str]) -> int:
    parser = Parser(
        prog="octavo bench startup", usage="octavo bench startup [options] [-- MODEL and flags of serve]"
    )
    parser.add_argument("--num-iters", type=int, default=3, help="how many starts (default: 3)")
    record.add_flags(parser)
    parser.add_argument("serve", nargs="*", metavar="WORDS", help="words for `octavo serve`")
    asked = parser.parse_args(words)
    runs = [_once(asked.serve) for _ in range(asked.num_iters)]
    result = {
        "serve": asked.serve,
        "healthy_s": record.spread([healthy for healthy, _ in runs]),
        "first_token_s": record.spread([first for _, first in runs]),
        "first_tokens_s": [round(first, 6) for _, first in runs],
    }
    record.emit("startup", result, asked.output_json)
    return 0


def _once(words: list[str]) -> tuple[float, float]:
    """Seconds until /health said 200, and until the first token came."""
    port = _free_port()
    command = [sys.executable, "-m", "octavo", "serve", *words, "--port", str(port)]
    key = env.read("OCTAVO_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            with httpx.Client(base_url=url, headers=headers, timeout=_PATIENCE, trust_env=False) as http:
                _wait(http, server, output)
                healthy = time.perf_counter() - start
                _first_token(http)
                return healthy, time.perf_counter() - start
        finally:
            server.terminate()
            server.wait(60)


def _wait(http: httpx.Client, server: subprocess.Popen[bytes], output: IO[str]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if server.poll() is not None:
            output.seek(0)
            raise Fault(f"the server ended at start: {output.read()[-500:].strip()}")
        with contextlib.suppress(httpx.TransportError):
            if http.get("/health").status_code == 200:
                return
        time.sleep(_PAUSE)
    raise Fault(f"the server was not ready after {_PATIENCE:.0f} s")


def _first_token(http: httpx.Client) -> None:
    model = http.get("/v1/models").json()["data"][0]["id"]
    body: dict[str, Any] = {
        "model": model,
        "prompt": "The capital of France is",
        "max_tokens": 4,
        "stream": True,
    }
    with http.stream("POST", "/v1/completions", json=body) as answer:
        if answer.status_code != 200:
            answer.read()
            raise Fault(f"the server answered {answer.status_code}: {answer.text[:200]}")
        for line in answer.iter_lines():
            if event_of(line) is not None:
                return
    raise Fault("the stream ended without a token")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
