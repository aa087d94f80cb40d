"""Who may ask. Deny by default: with keys set every route wants one, but a bare GET of /health.

Also names the tenant: a salt made from the key, so that tenants cannot learn from timing what
others have in the prefix cache.
"""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.openai.errors import Problem, error_response


class Auth:
    """`Authorization: Bearer KEY`, compared in constant time against every key."""

    def __init__(self, app: ASGIApp, *, keys: tuple[str, ...]) -> None:
        self._app = app
        self._keys = tuple(_digest(key) for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._keys:
            scope["tenant"] = ""
            await self._app(scope, receive, send)
            return
        tenant = self._tenant(scope)
        if tenant is None and not _is_open(scope):
            hint = "send the header 'Authorization: Bearer KEY'"
            await error_response(Problem(401, "missing or wrong API key", hint=hint))(scope, receive, send)
            return
        scope["tenant"] = tenant or ""
        await self._app(scope, receive, send)

    def _tenant(self, scope: Scope) -> str | None:
        """A name for the key's owner that does not give the key away; None for no valid key."""
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest = _digest(key.strip())
        matches = [hmac.compare_digest(digest, known) for known in self._keys]  # all: constant time
        return hashlib.sha256(b"octavo tenant" + digest).hexdigest()[:32] if any(matches) else None


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _is_open(scope: Scope) -> bool:
    """The path is read once, from the raw scope; a query string makes it another request."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"].removeprefix(root)
    return scope["method"] == "GET" and path == "/health" and not scope.get("query_string")
