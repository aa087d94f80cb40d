"""The audit log: one JSON line for each request, also for those that were turned away.

Who asked, for what, how it ended, how many tokens it took. What was written is left out unless the
operator asks for bodies; keys and headers never appear.
"""

from __future__ import annotations

import json
import logging
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from octavo.core.errors import UserError
from octavo.server.visit import Visit, visiting

_log = logging.getLogger(__name__)

_LONGEST_PATH = 256
_LONGEST_BODY = 64 << 10  # bytes of a body that are written, where bodies are asked for


class AuditLog:
    """An append-only file that only its owner can read."""

    def __init__(self, path: Path) -> None:
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._file = os.open(path.expanduser(), flags, 0o600)
        except OSError as error:
            raise UserError(
                f"the audit log cannot be written: {error.strerror}",
                hint="name a file in a folder that exists",
                field="audit_log",
            ) from None

    def write(self, line: dict[str, Any]) -> None:
        """One write for one line: lines of several servers do not mix. A full disk stops no request."""
        data = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        try:
            os.write(self._file, data)
        except OSError as error:
            _log.error("the audit log lost a line: %s", error.strerror)

    def close(self) -> None:
        os.close(self._file)


class Audit:
    """Opens the visit that all else writes into; `log` is None where none is kept."""

    def __init__(self, app: ASGIApp, *, log: AuditLog | None, bodies: bool) -> None:
        self._app = app
        self._log = log
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = Visit()
        token = visiting.set(visit)
        try:
            if self._log is None:
                await self._app(scope, receive, send)
            else:
                await _Record(self._log, visit, scope, self._bodies).run(self._app, receive, send)
        finally:
            visiting.reset(token)


class _Record:
    """One request, from its arrival to the line about it."""

    def __init__(self, log: AuditLog, visit: Visit, scope: Scope, bodies: bool) -> None:
        self._log = log
        self._visit = visit
        self._scope = scope
        self._body = bytearray() if bodies else None
        self._status: int | None = None
        self._complete = False
        self._started = time.monotonic()

    async def run(self, app: ASGIApp, receive: Receive, send: Send) -> None:
        async def heard() -> Message:
            message = await receive()
            if self._body is not None:
                room = _LONGEST_BODY - len(self._body)
                self._body += message.get("body", b"")[:room]
            return message

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._status = message["status"]
            await send(message)
            self._complete = message["type"] == "http.response.body" and not message.get("more_body")

        try:
            await app(self._scope, heard, told)
        finally:
            self._log.write(self._line())

    def _line(self) -> dict[str, Any]:
        scope, visit = self._scope, self._visit
        line: dict[str, Any] = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "request_id": scope.get("request_id", ""),
            "key": (visit.account.name if visit.account is not None else "") or None,
            "client": scope["client"][0] if scope.get("client") else None,
            "method": scope["method"],
            "path": scope["path"][:_LONGEST_PATH],
            "model": visit.model,
            "status": self._status,
            "complete": self._complete,
            "prompt_tokens": visit.prompt_tokens,
            "completion_tokens": visit.completion_tokens,
            "seconds": round(time.monotonic() - self._started, 3),
        }
        if self._body is not None:
            line["body"] = self._body.decode("utf-8", "replace")
        return line
