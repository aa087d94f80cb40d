"""The lines of a batch: requests in, results out. Pure functions over bytes.

A result names its request by `id`: the line's number and a digest of its bytes. So a half
written output file says by itself what is done, and whether it belongs to this input.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import msgspec

_ID = re.compile(r"batch_req_([0-9]{9,15})_([0-9a-f]{16})")
_NAME = 512  # characters of a custom_id


class Problem(NamedTuple):
    """Why a line is no request. Codes are OpenAI's where it has one."""

    code: str
    message: str
    param: str | None = None


class Line(NamedTuple):
    """One line of the input. `body` is raw JSON; a line with a `problem` has none that counts."""

    number: int  # from 1; blank lines count, but are not given out
    id: str
    custom_id: str | None
    url: str = ""
    body: bytes = b""
    problem: Problem | None = None


class Response(msgspec.Struct, frozen=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class Failure(msgspec.Struct, frozen=True):
    """Why there is no response."""

    code: str
    message: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the output, in OpenAI's format."""

    id: str
    custom_id: str | None
    response: Response | None = None
    error: Failure | None = None

    @property
    def good(self) -> bool:
        return self.response is not None and self.response.status_code == 200


class _Envelope(msgspec.Struct):
    custom_id: str
    url: str
    body: msgspec.Raw
    method: str = "POST"


class _Name(msgspec.Struct):
    custom_id: Any = None


class _Body(msgspec.Struct):
    stream: bool | None = None
    background: bool | None = None


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_NAMED = msgspec.json.Decoder(_Name)
_BODY = msgspec.json.Decoder(_Body)
_ENCODE = msgspec.json.Encoder().encode


def read_lines(file: BinaryIO, most: int) -> Iterator[Line]:
    """Every line that is not blank. One above `most` bytes is told as a problem and never held."""
    number = 0
    while raw := file.readline(most + 1):
        number += 1
        if len(raw) > most and not raw.endswith(b"\n"):
            digest = raw
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(most + 1)
            problem = Problem("line_too_long", f"the line is longer than {most} bytes")
            yield Line(number, line_id(number, digest), None, problem=problem)
        elif raw.strip():
            yield read_line(number, raw.strip())


def read_line(number: int, raw: bytes) -> Line:
    id = line_id(number, raw)
    try:
        found = _ENVELOPE.decode(raw)
    except msgspec.ValidationError as error:
        return Line(
            number, id, _name_in(raw), problem=Problem("invalid_request", str(error).replace("`", ""))
        )
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Line(number, id, None, problem=Problem("invalid_json_line", f"no valid JSON: {error}"))
    problem = _check(found)
    name = found.custom_id if len(found.custom_id) <= _NAME else None
    return Line(number, id, name, found.url, bytes(found.body), problem)


def _check(found: _Envelope) -> Problem | None:
    if not found.custom_id or len(found.custom_id) > _NAME:
        return Problem("invalid_custom_id", f"custom_id has 1 to {_NAME} characters", "custom_id")
    if found.method != "POST":
        return Problem("invalid_method", f"method is {found.method[:20]!r}, it has to be POST", "method")
    if not bytes(found.body).lstrip().startswith(b"{"):
        return Problem("invalid_request", "body is not a JSON object", "body")
    try:
        body = _BODY.decode(found.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None  # the route says what is wrong with it
    named = "stream" if body.stream else "background" if body.background else None
    return Problem("invalid_request", f"{named} cannot be used in a batch", named) if named else None


def _name_in(raw: bytes) -> str | None:
    """The custom_id of a line that is otherwise wrong, so that its owner finds it again."""
    try:
        name = _NAMED.decode(raw).custom_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return name if isinstance(name, str) and len(name) <= _NAME else None


def line_id(number: int, raw: bytes) -> str:
    return f"batch_req_{number:09d}_{hashlib.sha256(raw).hexdigest()[:16]}"


def number_of(id: str) -> int | None:
    """The line's number in an id made here; None for any other text."""
    found = _ID.fullmatch(id)
    return int(found[1]) if found else None


def encode(result: Result) -> bytes:
    """One line with its end."""
    return _ENCODE(result) + b"\n"


def failed(line: Line, code: str, message: str) -> Result:
    return Result(id=line.id, custom_id=line.custom_id, error=Failure(code, message))
