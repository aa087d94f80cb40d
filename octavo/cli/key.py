"""`octavo key`: makes an API key, and the digest that a server's settings may hold instead of it."""

from __future__ import annotations

import secrets

from octavo.config.flags import Parser

_BYTES = 32


def run(words: list[str]) -> int:
    from octavo.server.keys import hashed

    parser = Parser(
        prog="octavo key",
        usage="octavo key [--of KEY]",
        description="Make an API key for clients, and its digest for --api-key or a line of --api-key-file.",
    )
    parser.add_argument("--of", metavar="KEY", help="the digest of this key instead of a new one")
    asked = parser.parse_args(words)
    key = asked.of or f"sk-{secrets.token_urlsafe(_BYTES)}"
    print(f"key     {key}\ndigest  {hashed(key)}")
    return 0
