"""A request's JSON body into a typed struct. Whatever is wrong with it is a UserError."""

from __future__ import annotations

import re
from typing import Generic, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from octavo.core.errors import UserError

T = TypeVar("T", bound=msgspec.Struct)

_PLACE = re.compile(r" - at `\$\.?(.*)`$")
_MISSING = re.compile(r"missing required field `([^`]*)`")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Body(Generic[T]):
    """Reads bodies of one kind. Unknown fields are accepted, wrong types are not."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        self._decoder = msgspec.json.Decoder(kind)

    async def read(self, request: Request) -> T:
        check_content_type(request)
        return self.decode(await request.body())

    def decode(self, data: bytes) -> T:
        try:
            return self._decoder.decode(data)
        except msgspec.ValidationError as error:
            raise _wrong_value(str(error)) from None
        except msgspec.DecodeError as error:
            raise UserError(
                f"the body is not valid JSON: {error}", hint=_json_hint(data), field="body"
            ) from None
        except UnicodeDecodeError:
            raise UserError("the body is not valid UTF-8", hint="encode it as UTF-8", field="body") from None
        except RecursionError:
            raise UserError("the body is nested too deeply", hint="flatten it", field="body") from None


def check_content_type(request: Request) -> None:
    """JSON, or nothing said."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        hint = "send the header 'Content-Type: application/json'"
        raise UserError(f"the body's content type is {kind[:80]!r}", hint=hint, field="Content-Type")


def _wrong_value(text: str) -> UserError:
    """msgspec says "Expected `int`, got `str` - at `$.n`"; the path's first name is the field."""
    place = _PLACE.search(text)
    path = place.group(1) if place else ""
    name = _NAME.match(path)
    what = _PLACE.sub("", text).replace("`", "")
    if missing := _MISSING.search(text):
        field = name.group(0) if name else missing.group(1)
        return UserError(f"{path}: {what}" if path else what, hint="add it", field=field)
    hint = "see /openapi.json for the type of every field"
    return UserError(f"{path or 'body'}: {what}", hint=hint, field=name.group(0) if name else "body")


def _json_hint(data: bytes) -> str:
    """Says what the two usual slips are: an empty body, and NaN or Infinity."""
    if not data.strip():
        return "the body is empty; send a JSON object"
    if any(word in data for word in (b"NaN", b"Infinity")):
        return "JSON knows no NaN or Infinity"
    return "send one JSON object"


def reply(value: msgspec.Struct) -> Response:
    """A whole answer as JSON."""
    return Response(msgspec.json.encode(value), media_type="application/json")
