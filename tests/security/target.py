"""The server under attack: ours, or another one on this machine that was named by URL."""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.serving import Server

PATIENCE = 120  # seconds before a server counts as hung
Body = dict[str, Any]

# how each dialect says "continue this text"; further fields are laid over it
DIALECTS: dict[str, Callable[[str], Body]] = {
    "/v1/completions": lambda text: {"prompt": text, "max_tokens": 4},
    "/v1/chat/completions": lambda text: {"messages": said(text), "max_tokens": 4},
    "/v1/responses": lambda text: {"input": text, "max_output_tokens": 16},
    "/v1/messages": lambda text: {"messages": said(text), "max_tokens": 4},
}


def said(text: str) -> list[Body]:
    return [{"role": "user", "content": text}]


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class Target:
    """`keys` are valid ones, of different tenants; `server` is None where the process is not ours."""

    def __init__(self, url: str, keys: tuple[str, ...], server: Server | None = None) -> None:
        if not is_loopback(url):
            raise ValueError(f"{url} is not on this machine")
        self.url = url.rstrip("/")
        self.keys = keys
        self.server = server
        self._client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def close(self) -> None:
        self._client.close()

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        key: str | None = "",
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """`key` is the first valid one unless another, or None, is given. NaN in a body is sent as such."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **self._key(key), **(headers or {})}
        return self._client.request(method, path, content=data, headers=sent)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """With the model's name, where none is given."""
        named = {"model": self.model, **body} if isinstance(body, dict) else body
        return self.ask("POST", path, named, **more)

    def _key(self, key: str | None) -> dict[str, str]:
        if key == "":
            key = self.keys[0] if self.keys else None
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    @functools.cached_property
    def model(self) -> str:
        return str(self.ask("GET", "/v1/models").json()["data"][0]["id"])

    @functools.cached_property
    def dialects(self) -> tuple[str, ...]:
        """Those of DIALECTS that this server speaks."""
        return tuple(path for path in DIALECTS if self.ask("POST", path, {}).status_code not in (404, 405))

    def answer(self, text: str = "The capital of France is", **more: Any) -> str:
        """Greedy, so always the same."""
        body = {"prompt": text, "max_tokens": 12, "temperature": 0, **more}
        reply = self.post("/v1/completions", body)
        assert reply.status_code == 200, reply.text
        return str(reply.json()["choices"][0]["text"])

    @contextlib.contextmanager
    def stream(self, **more: Any) -> Iterator[Iterator[str]]:
        """The lines of a stream that stays open meanwhile."""
        body = {
            "model": self.model,
            "prompt": "Once upon a time",
            "max_tokens": 100,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            **more,
        }
        headers = self._key("")
        with self._client.stream("POST", "/v1/completions", json=body, headers=headers) as reply:
            assert reply.status_code == 200
            yield reply.iter_lines()

    def send(self, data: bytes) -> bytes:
        """Raw bytes to the socket, and what comes back until it closes; b"" when it just closes."""
        where = urlsplit(self.url)
        received = b""
        peer = socket.create_connection((where.hostname, where.port), timeout=PATIENCE)
        with peer, contextlib.suppress(ConnectionError):
            peer.sendall(data)
            while part := peer.recv(1 << 16):
                received += part
        return received


def texts_of(lines: Iterator[str]) -> str:
    """What a stream of completions says."""
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]", events[-3:]
    chunks = [json.loads(event) for event in events[:-1]]
    assert not any("error" in chunk for chunk in chunks), chunks
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


def refused(reply: httpx.Response) -> bool:
    return 400 <= reply.status_code < 500
