"""A request's query string into a typed struct. Unknown names are passed over, as in bodies."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from starlette.requests import Request

from octavo.core.errors import UserError

T = TypeVar("T", bound=msgspec.Struct)

_PLACE = re.compile(r" - at `\$\.?(.*)`$")


def read_query(request: Request, kind: type[T]) -> T:
    """UserError names the parameter that cannot be."""
    try:
        return msgspec.convert(dict(request.query_params), kind, strict=False)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        field = place.group(1) if place else "query"
        what = _PLACE.sub("", str(error)).replace("`", "")
        hint = "see /openapi.json for the type of every parameter"
        raise UserError(f"{field}: {what}", hint=hint, field=field) from None
