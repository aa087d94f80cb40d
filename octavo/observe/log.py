"""Log lines: short ones for people, JSON for machines, each with its request's id.

Owns the handler of the `octavo` logger. Never given prompts or keys: nothing here prints them.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import ClassVar, TextIO

from octavo.config.observe import ObserveConfig

request_id: ContextVar[str] = ContextVar("octavo_request_id", default="")
"""Set by the server's middleware for the time of one HTTP request."""

_FOREIGN = ("uvicorn", "uvicorn.error", "uvicorn.access")


class TextFormatter(logging.Formatter):
    """`12:00:01 INFO  server: message [request id]`; colours only on a terminal."""

    _COLOURS: ClassVar = {
        logging.WARNING: "\x1b[33m",
        logging.ERROR: "\x1b[31m",
        logging.CRITICAL: "\x1b[31m",
    }

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        level = f"{record.levelname:<7}"
        if self._colour and (code := self._COLOURS.get(record.levelno)):
            level = f"{code}{level}\x1b[0m"
        name = _request_of(record)
        line = f"{time} {level} {record.getMessage()}" + (f" [{name}]" if name else "")
        return _with_trace(self, record, line)


class JsonFormatter(logging.Formatter):
    """One object a line: time (UTC, ISO 8601), level, logger, message, request_id, data, trace."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": time,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if name := _request_of(record):
            line["request_id"] = name
        if data := vars(record).get("data"):
            line["data"] = data
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(config: ObserveConfig, stream: TextIO | None = None) -> None:
    """Sends the logs of octavo and uvicorn to one stream (default stderr). May be called again."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        JsonFormatter() if config.log_format == "json" else TextFormatter(colour=stream.isatty())
    )
    own = logging.getLogger("octavo")
    own.setLevel(config.log_level.upper())
    for name in ("octavo", *_FOREIGN):
        logger = logging.getLogger(name)
        logger.handlers = [] if "." in name else [handler]
        logger.propagate = "." in name
    level = max(logging.WARNING, own.level) if config.log_level != "debug" else logging.DEBUG
    logging.getLogger("uvicorn").setLevel(level)
    access = logging.WARNING if config.disable_uvicorn_access_log else own.level
    logging.getLogger("uvicorn.access").setLevel(access)


def _request_of(record: logging.LogRecord) -> str:
    return str(vars(record).get("request_id") or request_id.get())


def _with_trace(formatter: logging.Formatter, record: logging.LogRecord, line: str) -> str:
    return f"{line}\n{formatter.formatException(record.exc_info)}" if record.exc_info else line
