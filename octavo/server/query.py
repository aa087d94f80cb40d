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
    given = dict(request.query_params)
    names = [name for name, _ in request.query_params.multi_items() if name in kind.__struct_encode_fields__]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{twice} is given twice", hint="send every parameter once", field=twice)
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        field = place.group(1) if place else "query"
        what = _PLACE.sub("", str(error)).replace("`", "")
        hint = "see /openapi.json for the type of every parameter"
        raise UserError(f"{field}: {what}", hint=hint, field=field) from None
