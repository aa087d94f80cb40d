"""Who may ask. Deny by default: with keys set every route wants one, but a bare GET of /health.

Stands in front of the router, so that a route cannot forget it. Also names the tenant: a salt made from
the key, so that tenants cannot learn from timing what others have in the prefix cache.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from octavo.server.keys import KeyRing
from octavo.server.openai.errors import Problem, error_response
from octavo.server.visit import Account, visit


class Auth:
    """`Authorization: Bearer KEY` or `x-api-key: KEY`, compared in constant time against every key."""

    def __init__(self, app: ASGIApp, *, ring: KeyRing) -> None:
        self._app = app
        self._ring = ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        account = self._account(scope) if scope["type"] != "lifespan" else self._ring.anonymous
        if account is None:
            hint = "send the header 'Authorization: Bearer KEY'"
            await error_response(Problem(401, "missing or wrong API key", hint=hint))(scope, receive, send)
            return
        visit().account = account
        scope["tenant"] = account.tenant
        await self._app(scope, receive, send)

    def _account(self, scope: Scope) -> Account | None:
        """Whose request this is; None when it is nobody's and has to be."""
        if not self._ring.closed:
            return self._ring.anonymous
        key = _key(Headers(scope=scope))
        found = None if key is None else self._ring.find(key)
        return self._ring.anonymous if found is None and _is_open(scope) else found


def _key(headers: Headers) -> str | None:
    """Bearer where that is said; Anthropic's clients send x-api-key."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")


def _is_open(scope: Scope) -> bool:
    """The path is read once, from the raw scope; a query string makes it another request."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"].removeprefix(root)
    return scope.get("method") == "GET" and path == "/health" and not scope.get("query_string")
