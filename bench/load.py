"""A closed loop of streamed completions on any OpenAI-compatible server, at little cost to the same cores.

Written on bare asyncio protocols: an HTTP library takes as long for an event as a small model for a token,
and would be measured with the server. Only the last bytes of an answer are parsed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

_TAIL = 4096  # bytes of an answer's end that are kept: its usage is there


class Address(NamedTuple):
    host: str
    port: int
    model: str


@dataclass
class Seen(asyncio.Protocol):
    """One request over a connection of its own. Seconds."""

    done: asyncio.Future[None]
    sent: float = 0.0
    first: float = 0.0
    last: float = 0.0
    tokens: int = 0
    tail: bytes = b""

    def data_received(self, data: bytes) -> None:
        if not self.first:
            self._begin(data)
        if b"data: {" in data:
            self.last = time.perf_counter()
        self.tail = (self.tail + data)[-_TAIL:]

    def _begin(self, data: bytes) -> None:
        text = self.tail + data
        if text.startswith(b"HTTP/1.1 200"):
            self.first = time.perf_counter() if b"data: {" in text else 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def finish(self, wanted: int) -> None:
        if not self.first or b"data: [DONE]" not in self.tail:
            raise SystemExit(f"an answer was cut or refused: {self.tail[:500].decode(errors='replace')}")
        usage = self.tail.rindex(b'"completion_tokens"')
        digits = self.tail[usage:].split(b":", 1)[1].split(b",")[0].split(b"}")[0]
        self.tokens = int(digits)
        if self.tokens != wanted:
            raise SystemExit(f"{wanted} tokens were asked for, {self.tokens} came")


async def _one(address: Address, prompt: Sequence[int], output: int) -> Seen:
    loop = asyncio.get_running_loop()
    seen = Seen(loop.create_future())
    body = json.dumps(
        {
            "model": address.model, "prompt": list(prompt), "max_tokens": output, "temperature": 0,
            "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True},
        }
    ).encode()  # fmt: skip
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    seen.sent = time.perf_counter()
    transport, _ = await loop.create_connection(lambda: seen, address.host, address.port)
    transport.write(head.encode() + body)
    await seen.done
    seen.finish(output)
    return seen


async def _client(address: Address, waiting: Iterator[Sequence[int]], output: int, into: list[Seen]) -> None:
    for prompt in waiting:
        into.append(await _one(address, prompt, output))


async def _all(address: Address, prompts: Sequence[Sequence[int]], output: int, clients: int) -> list[Seen]:
    seen: list[Seen] = []
    waiting = iter(prompts)
    await asyncio.gather(*(_client(address, waiting, output, seen) for _ in range(clients)))
    return seen


def load(address: Address, prompts: Sequence[Sequence[int]], output: int, clients: int) -> dict[str, Any]:
    """Each prompt once, `clients` at any time. Output tokens a second of all, and for each
    request seconds to its first token and between tokens; with the share of a core this side took."""
    began, cpu = time.perf_counter(), time.process_time()
    seen = asyncio.run(_all(address, prompts, output, clients))
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "output_tokens_per_s": sum(one.tokens for one in seen) / seconds,
        "ttft": [one.first - one.sent for one in seen],
        "tpot": [(one.last - one.first) / (one.tokens - 1) for one in seen],
        "client": (time.process_time() - cpu) / seconds,
    }
