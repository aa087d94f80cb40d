"""`octavo bench serve`: a load of streamed requests on a running server, and what each of them saw.

Closed loop (--max-concurrency N requests at any time) or open loop (--request-rate R a second, at
random moments, whether or not earlier ones are done).
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from octavo.cli import client
from octavo.cli.bench import record
from octavo.cli.bench.prompts import TEXT, random_prompts
from octavo.config.flags import Parser
from octavo.core.errors import EngineError, UserError


@dataclass
class Seen:
    """One request. Seconds; `moments` are the times at which text or tokens arrived."""

    sent: float = 0.0
    moments: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str = ""

    @property
    def ttft(self) -> float:
        return self.moments[0] - self.sent

    @property
    def tpot(self) -> float:
        return (self.moments[-1] - self.moments[0]) / max(self.tokens - 1, 1)


def run(words: list[str]) -> int:
    parser = Parser(prog="octavo bench serve", description="Measure a running server.")
    client.add_flags(parser)
    parser.add_argument("--num-prompts", type=int, default=64, help="how many (default: 64)")
    parser.add_argument("--random-input-len", type=int, default=128, help="tokens of a prompt (default: 128)")
    parser.add_argument("--random-output-len", type=int, default=64, help="tokens of an answer (default: 64)")
    parser.add_argument(
        "--request-rate", type=float, default=float("inf"), help="a second (default: all at once)"
    )
    parser.add_argument("--max-concurrency", type=int, help="most requests at any time (default: no limit)")
    parser.add_argument("--num-warmups", type=int, default=2, help="requests that do not count (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and arrivals (default: 0)")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="first as many other requests, with a trace of them in the server's --profiler-dir",
    )
    record.add_flags(parser)
    asked = parser.parse_args(words)
    if asked.request_rate <= 0 or asked.num_prompts < 1:
        raise UserError(
            "--request-rate and --num-prompts must be positive", hint="leave them out for defaults"
        )
    record.emit("serve", asyncio.run(_measure(asked)), asked.output_json)
    return 0


async def _measure(asked: Any) -> dict[str, Any]:
    url = client.base(asked.url)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, **client.options(url, asked.api_key)) as http:
        try:
            model = asked.model_name or await _first_model(http, url)
            pool = await _pool(http, url, model)
        except httpx.HTTPError as error:
            raise client.unreachable(url, error) from error
        prompts = random_prompts(
            asked.seed, asked.num_prompts + asked.num_warmups, asked.random_input_len, pool
        )
        bodies = [_body(model, prompt, asked.random_output_len) for prompt in prompts]
        for body in bodies[: asked.num_warmups]:
            await _one(http, url, body)
        trace = await _profile(http, url, model, pool, asked) if asked.profile else {}
        start = time.perf_counter()
        seen = await _load(http, url, bodies[asked.num_warmups :], asked)
        return {**report(seen, time.perf_counter() - start, asked, model), **trace}


async def _profile(
    http: httpx.AsyncClient, url: str, model: str, pool: list[int], asked: Any
) -> dict[str, Any]:
    """A load of its own: recording slows the server down, and prompts it has seen would be in its cache."""
    prompts = random_prompts(asked.seed + 1, asked.num_prompts, asked.random_input_len, pool)
    bodies = [_body(model, prompt, asked.random_output_len) for prompt in prompts]
    await _admin(http, url, "/start_profile")
    try:
        await _load(http, url, bodies, asked)
    finally:
        written = await _admin(http, url, "/stop_profile")
    return {"profile": written["file"]}


async def _admin(http: httpx.AsyncClient, url: str, path: str) -> Any:
    answer = await http.post(url.removesuffix("/v1") + path)
    if answer.status_code != 200:
        raise client.refusal(answer)
    return client.json_of(answer)


async def _load(http: httpx.AsyncClient, url: str, bodies: list[dict[str, Any]], asked: Any) -> list[Seen]:
    dice = random.Random(asked.seed)
    room = asyncio.Semaphore(asked.max_concurrency or len(bodies))

    async def when_room(body: dict[str, Any]) -> Seen:
        async with room:
            return await _one(http, url, body)

    tasks: list[asyncio.Task[Seen]] = []
    due = time.perf_counter()
    for body in bodies:
        if asked.request_rate != float("inf"):
            due += dice.expovariate(asked.request_rate)
            await asyncio.sleep(max(due - time.perf_counter(), 0.0))
        tasks.append(asyncio.create_task(when_room(body)))
    return list(await asyncio.gather(*tasks))


async def _one(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Seen:
    seen = Seen(sent=time.perf_counter())
    try:
        async with http.stream("POST", url + "/completions", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise client.refusal(answer)
            async for line in answer.aiter_lines():
                if (event := client.event_of(line)) is not None:
                    _note(seen, event)
    except (httpx.HTTPError, EngineError) as error:
        seen.error = str(error) or type(error).__name__
    if not seen.error and not seen.moments:
        seen.error = "the answer was empty"
    return seen


def _note(seen: Seen, event: dict[str, Any]) -> None:
    if event.get("choices"):
        seen.moments.append(time.perf_counter())
    if usage := event.get("usage"):
        seen.tokens = usage["completion_tokens"]


def _body(model: str, prompt: list[int], tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _first_model(http: httpx.AsyncClient, url: str) -> str:
    answer = await http.get(url + "/models")
    if answer.status_code != 200:
        raise client.refusal(answer)
    return str(client.json_of(answer)["data"][0]["id"])


async def _pool(http: httpx.AsyncClient, url: str, model: str) -> list[int]:
    """Ordinary tokens of the server's vocabulary."""
    address = url.removesuffix("/v1") + "/tokenize"
    answer = await http.post(address, json={"model": model, "prompt": TEXT, "add_special_tokens": False})
    if answer.status_code != 200:
        raise client.refusal(answer)
    return sorted(set(client.json_of(answer)["tokens"]))


def report(seen: list[Seen], seconds: float, asked: Any, model: str) -> dict[str, Any]:
    """The figures of a run; only requests that ended well count in the times."""
    good = [one for one in seen if not one.error]
    gaps = [b - a for one in good for a, b in zip(one.moments, one.moments[1:], strict=False)]
    tokens = sum(one.tokens for one in good)
    names = ("num_prompts", "random_input_len", "random_output_len", "max_concurrency", "seed")
    return {
        "model": model,
        "url": client.base(asked.url),
        **{name: vars(asked)[name] for name in names},
        "request_rate": None if asked.request_rate == float("inf") else asked.request_rate,
        "completed": len(good),
        "failed": len(seen) - len(good),
        "errors": sorted({one.error for one in seen if one.error})[:5],
        "seconds": round(seconds, 6),
        "requests_per_s": round(len(good) / seconds, 3),
        "output_tokens_per_s": round(tokens / seconds, 3),
        "ttft_ms": record.spread([one.ttft for one in good], 1e3),
        "tpot_ms": record.spread([one.tpot for one in good], 1e3),
        "itl_ms": record.spread(gaps, 1e3),
        "e2e_ms": record.spread([one.moments[-1] - one.sent for one in good], 1e3),
    }
