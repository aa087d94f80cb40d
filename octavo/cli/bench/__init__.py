"""`octavo bench latency|throughput|serve|startup`: each prints one JSON object with its provenance."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from octavo.core.errors import UserError

MODES = {
    "latency": "seconds one batch takes, in this process",
    "throughput": "tokens a second over many prompts, in this process",
    "serve": "time to first token and between tokens, of a running server",
    "startup": "seconds from starting a server to its first token",
}


def run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print("usage: octavo bench MODE [...]\n")
        print("\n".join(f"  {name:<11} {help}" for name, help in MODES.items()))
        print("\n`octavo bench MODE --help` lists the options.")
        return 0 if words else 2
    if words[0] not in MODES:
        raise UserError(f"unknown benchmark {words[0]!r}", hint=f"one of {', '.join(MODES)}")
    mode: Callable[[list[str]], int] = importlib.import_module(f"octavo.cli.bench.{words[0]}").run
    return mode(words[1:])
