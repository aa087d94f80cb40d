"""`octavo chat`: a conversation in the terminal with a running server."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from octavo.cli.client import Client, add_flags
from octavo.cli.show import Stats
from octavo.config.flags import Parser


def run(words: list[str]) -> int:
    parser = Parser(prog="octavo chat", description="Talk to a running server. Ctrl-D ends.")
    add_flags(parser)
    parser.add_argument("--system-prompt", help="text of a system message put first")
    parser.add_argument("-q", "--quick", metavar="MESSAGE", help="send one message, print the answer, end")
    parser.add_argument("--max-tokens", type=int, help="most tokens of an answer")
    parser.add_argument("--temperature", type=float, help="0: always the likeliest token")
    parser.add_argument("--stats", action="store_true", help="print tokens per second after each answer")
    asked = parser.parse_args(words)
    with Client(asked.url, asked.api_key) as client:
        _converse(client, asked, client.model(asked.model_name))
    return 0


def _converse(client: Client, asked: Any, model: str) -> None:
    messages: list[dict[str, str]] = []
    if asked.system_prompt:
        messages.append({"role": "system", "content": asked.system_prompt})
    if not asked.quick and sys.stdin.isatty():
        print(f"{model} at {client.url}; Ctrl-D ends, Ctrl-C stops an answer")
    for text in [asked.quick] if asked.quick else lines("> "):
        messages.append({"role": "user", "content": text})
        body = {"model": model, "messages": messages, **limits(asked)}
        stats = Stats()
        reply = say(words_of(client.stream("/chat/completions", body), stats))
        if asked.stats:
            print(stats, file=sys.stderr)
        messages.append({"role": "assistant", "content": reply})


def limits(asked: Any) -> dict[str, Any]:
    """The sampling fields the user set."""
    wanted = {"max_tokens": asked.max_tokens, "temperature": asked.temperature}
    if asked.stats:
        wanted["stream_options"] = {"include_usage": True}
    return {key: value for key, value in wanted.items() if value is not None}


def words_of(events: Iterable[dict[str, Any]], stats: Stats) -> Iterator[str]:
    for event in events:
        stats.see(event)
        for choice in event.get("choices", ()):
            if thought := choice["delta"].get("reasoning"):
                think(thought)
            if text := choice["delta"].get("content"):
                yield text


def think(thought: str) -> None:
    """Shows reasoning as it comes, dimmed; it is no part of the answer."""
    if sys.stderr.isatty():
        print(f"\x1b[2m{thought}\x1b[0m", end="", file=sys.stderr, flush=True)


def lines(prompt: str) -> Iterator[str]:
    """What the user types, line by line, without the empty ones; ends at Ctrl-D or Ctrl-C."""
    terminal = sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - arrow keys and history in input()
    while True:
        try:
            text = input(prompt if terminal else "")
        except (EOFError, KeyboardInterrupt):
            if terminal:
                print()
            return
        if text.strip():
            yield text


def say(pieces: Iterator[str]) -> str:
    """Prints pieces as they come and returns the whole; Ctrl-C stops this answer only."""
    whole: list[str] = []
    try:
        for piece in pieces:
            whole.append(piece)
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    finally:
        print(flush=True)
    return "".join(whole)
