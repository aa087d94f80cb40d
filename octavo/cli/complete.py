"""`octavo complete`: goes on with a text, streamed from a running server."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from octavo.cli.chat import limits, lines, say
from octavo.cli.client import Client, add_flags
from octavo.cli.show import Stats
from octavo.config.flags import Parser


def run(words: list[str]) -> int:
    parser = Parser(prog="octavo complete", description="Complete texts with a running server. Ctrl-D ends.")
    add_flags(parser)
    parser.add_argument("-q", "--quick", metavar="PROMPT", help="complete one prompt, then end")
    parser.add_argument("--max-tokens", type=int, default=64, help="most tokens to add (default: 64)")
    parser.add_argument("--temperature", type=float, help="0: always the likeliest token")
    parser.add_argument("--stats", action="store_true", help="print tokens per second after each text")
    asked = parser.parse_args(words)
    with Client(asked.url, asked.api_key) as client:
        model = client.model(asked.model_name)
        for prompt in [asked.quick] if asked.quick else lines("> "):
            stats = Stats()
            body = {"model": model, "prompt": prompt, **limits(asked)}
            say(_words_of(client.stream("/completions", body), stats))
            if asked.stats:
                print(stats, file=sys.stderr)
    return 0


def _words_of(events: Iterable[dict[str, Any]], stats: Stats) -> Iterator[str]:
    for event in events:
        stats.see(event)
        for choice in event.get("choices", ()):
            if choice.get("text"):
                yield choice["text"]
