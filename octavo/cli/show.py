"""What the terminal commands print: start-up progress, the summary, rates. Knows no server."""

from __future__ import annotations

import importlib.util
import json
import logging
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from octavo.config.engine import EngineConfig
from octavo.core.facts import CachePlan, ModelFiles, Ready

log = logging.getLogger(__name__)
QUESTION = "What is the capital of France?"
_CPU_FIELDS = {
    "kernels": "kernels",
    "weights": "weights",
    "weight_pages": "pages",
    "cpu_threads": "threads",
}  # decided on a CPU


class Startup:
    """Progress of a start: (stage, share). One line a stage, counting up in a terminal; with `tell`
    each finished stage is told to it instead."""

    def __init__(self, out: TextIO | None = None, *, tell: Callable[[str], None] | None = None) -> None:
        self._out = out or sys.stderr
        self._tell = tell
        self._live = tell is None and self._out.isatty()
        self._stage = ""
        self._since = 0.0

    def __call__(self, stage: str, share: float) -> None:
        if stage != self._stage:
            self._stage, self._since = stage, time.monotonic()
        elif not self._since:  # this stage is done already
            return
        if share >= 1.0:
            took = time.monotonic() - self._since
            self._since = 0.0
            (self._tell or self._end)(f"{stage} ({took:.1f} s)")
        elif self._live:
            self._line(f"{stage} {share:4.0%}", "")

    def _end(self, text: str) -> None:
        self._line(text, "\n")

    def _line(self, text: str, end: str) -> None:
        start = "\r\x1b[K" if self._live else ""
        self._out.write(f"{start}  {text}{end}")
        self._out.flush()


class Stats:
    """Tokens per second of one streamed answer."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._first: float | None = None
        self._tokens = 0

    def see(self, event: dict[str, Any]) -> None:
        self._first = self._first or time.perf_counter()
        if usage := event.get("usage"):
            self._tokens = usage["completion_tokens"]

    def __str__(self) -> str:
        end = time.perf_counter()
        first = self._first or end
        rate = (self._tokens - 1) / (end - first) if self._tokens > 1 and end > first else 0.0
        return f"[{self._tokens} tokens, first after {first - self._start:.2f} s, then {rate:.1f} a second]"


def cache_tokens(cache: CachePlan) -> int:
    """Tokens the KV cache holds when all its blocks are full (page 0 holds nothing)."""
    full = [group for group in cache.groups if group.kind == "full"] or list(cache.groups)
    return (cache.pages - 1) // max(len(full), 1) * max(group.tokens_per_page for group in full)


def facts(
    config: EngineConfig, files: ModelFiles, ready: Ready, model: str, url: str, queue: int
) -> dict[str, Any]:
    """The start's outcome, for people and for JSON logs."""
    made = {decision.field: decision for decision in ready.decisions}
    if "cpu_threads" not in made:
        made.pop("kernels", None)  # a GPU's: it has no such choice
    return {
        "model": model,
        "format": files.format,
        "architecture": ready.facts.architecture,
        "dtype": ready.dtype,
        "attention": ready.attention,
        "kv_blocks": ready.cache.pages - 1,
        "kv_tokens": cache_tokens(ready.cache),
        "kv_bytes": ready.cache.pages * ready.cache.page_bytes,
        "max_model_len": ready.max_model_len,
        "max_num_seqs": ready.cache.max_rows,
        "max_num_batched_tokens": ready.budget or config.schedule.max_num_batched_tokens,
        "max_queue": queue,
        "memory": [{"name": row.name, "bytes": row.nbytes, "note": row.note} for row in ready.memory],
        "keyed": config.serve.keyed,
        "url": url,
        **{field: str(made[field]).partition(" = ")[2] for field in _CPU_FIELDS if field in made},
    }


def summary(found: dict[str, Any]) -> str:
    """A readable block of `facts`."""
    keys = "API key needed" if found["keyed"] else "no API key"
    limits = [
        f"{found['max_model_len']:,} tokens in a request",
        f"{found['max_num_seqs']:,} requests at once",
        *(
            [f"{found['max_num_batched_tokens']:,} tokens in a step"]
            if found["max_num_batched_tokens"]
            else []
        ),
        f"{found['max_queue']:,} requests in the queue",
    ]
    size = f"{found['kv_bytes'] / 2**20:,.0f} MiB"
    rows = {
        "model": f"{found['model']} ({found['architecture']}, {found['format']})",
        "dtype": f"{found['dtype']}, attention: {found['attention']}",
        **{_CPU_FIELDS[field]: found[field] for field in _CPU_FIELDS if field in found},
        "KV cache": f"{found['kv_blocks']:,} blocks = {found['kv_tokens']:,} tokens ({size})",
        **({"memory": _table(found["memory"])} if found["memory"] else {}),
        "limits": ", ".join(limits),
        "URL": f"{found['url']}/v1  ({keys}; Ctrl-C stops)",
    }
    return "\n".join(f"  {name:<9} {text}" for name, text in rows.items())


def _table(memory: list[dict[str, Any]]) -> str:
    """The memory plan, a line a row, in a column of `summary`."""
    lines = [f"{row['name']:<18}{row['bytes'] / 2**20:>10,.1f} MiB  {row['note']}".rstrip() for row in memory]
    return f"\n{'':12}".join(lines)


def examples(model: str, url: str, *, keyed: bool, chat: bool) -> str:
    """A curl line and a Python snippet that work as pasted into a shell."""
    return "\n".join(["Try it:", "", _curl(model, url, keyed, chat), "", *_snippet(model, url, keyed, chat)])


def _body(model: str, chat: bool) -> dict[str, Any]:
    if chat:
        return {"model": model, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    return {"model": model, "prompt": "The capital of France is", "max_tokens": 32, "temperature": 0}


def _curl(model: str, url: str, keyed: bool, chat: bool) -> str:
    path = "chat/completions" if chat else "completions"
    key = ' -H "Authorization: Bearer $OCTAVO_API_KEY"' if keyed else ""
    body = shlex.quote(json.dumps({**_body(model, chat), "stream": True}))
    return f"curl -N {url}/v1/{path} -H 'Content-Type: application/json'{key} -d {body}"


def _snippet(model: str, url: str, keyed: bool, chat: bool) -> list[str]:
    python = shlex.quote(sys.executable)
    missing = importlib.util.find_spec("openai") is None
    key = 'os.environ["OCTAVO_API_KEY"]' if keyed else '"none"'
    facts = ", ".join(f"{name}={value!r}" for name, value in _body(model, chat).items())
    call, text = ("chat.completions", "delta.content") if chat else ("completions", "text")
    return [
        *([f"{python} -m pip install openai"] if missing else []),
        f"{python} - <<'EOF'",
        *(["import os"] if keyed else []),
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{url}/v1", api_key={key})',
        f"for event in client.{call}.create({facts}, stream=True):",
        f'    print(event.choices[0].{text} or "", end="", flush=True)',
        "print()",
        "EOF",
    ]
