"""`octavo`: finds the subcommand, and turns what goes wrong into one or two lines.

Loads a subcommand only when it is called, so that `octavo --help` answers at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import pairwise

from octavo import __version__
from octavo.core.errors import EngineError, Fault, UserError

COMMANDS = {
    "serve": "start the OpenAI-compatible server",
    "chat": "talk to a running server",
    "complete": "complete a text with a running server",
    "run-batch": "answer a file of requests, without a server",
    "bench": "measure latency, throughput, serving and start-up",
    "doctor": "show what was found on this machine and what was decided, and why",
    "pull": "fetch a model into the cache",
    "cache": "list or clear cached models",
    "key": "make an API key and its digest",
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs one command line; returns the exit status: 0, 1 (ours), 2 (the caller's), 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if words is None else words)
    try:
        return _run(words)
    except EngineError as error:
        return _explain(error, words)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # whoever read our output has gone; keep the interpreter from complaining about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _explain(Fault(f"internal error: {type(error).__name__}: {error}", hint=_REPORT), words)


_REPORT = "this is a bug of ours; --log-level debug shows where"


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if words else 2
    if words[0] in ("-v", "-V", "--version", "version"):
        print(f"octavo {__version__}")
        return 0
    return _find(words[0])(words[1:])


def _find(name: str) -> Callable[[list[str]], int]:
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `octavo {close[0]}`?" if close else f"commands: {', '.join(COMMANDS)}"
        raise UserError(f"unknown command {name!r}", hint=hint)
    run: Callable[[list[str]], int] = importlib.import_module(f"octavo.cli.{name.replace('-', '_')}").run
    return run


def _usage() -> str:
    lines = [f"  {name:<9} {help}" for name, help in COMMANDS.items()]
    return "\n".join(
        [
            "usage: octavo COMMAND [...]",
            "",
            *lines,
            "",
            "`octavo COMMAND --help` lists the options; `octavo --version` prints the version.",
        ]
    )


def _explain(error: EngineError, words: list[str]) -> int:
    if _debugging(words):
        traceback.print_exc()
    print(f"octavo: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  -> {error.hint}", file=sys.stderr)
    return 2 if isinstance(error, UserError) else 1


def _debugging(words: list[str]) -> bool:
    asked = "--log-level=debug" in words or ("--log-level", "debug") in pairwise(words)
    return asked or logging.getLogger("octavo").level == logging.DEBUG


if __name__ == "__main__":
    sys.exit(main())
