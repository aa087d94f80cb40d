"""/openapi.json, made from the very types that read and write the bodies, and a page that shows it.

A route says once what it reads and writes (Operation); which refusals it can answer with follows from
that and from the middleware in front of it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

import octavo
from octavo.server.openai.errors import ErrorReply

_REF = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_JSON, _EVENTS, _FORM = "application/json", "text/event-stream", "multipart/form-data"

_PROBLEMS = {
    400: "the request is not understood or asks for what cannot be; `param` names the field",
    401: "no key, or a wrong one",
    404: "the model, or what else the request names, does not exist",
    408: "the request did not arrive in time; the connection is closed",
    409: "it is not in a state for that",
    413: "the body is too large",
    429: "this key has used up what it may do for now",
    431: "the request's head is too large; the connection is closed",
    500: "a fault of the server",
    503: "the server is overloaded, leaving, or its engine does not progress",
}
_ALWAYS = (400, 408, 413, 431, 500, 503)
_FREE = ("GET", "HEAD")  # not held to a quota, see middleware/quota.py


class Operation(NamedTuple):
    """What the document says of one route. Every type is a msgspec struct."""

    summary: str
    request: type[msgspec.Struct] | None = None  # the JSON body
    replies: tuple[type[msgspec.Struct], ...] = ()
    stream: tuple[type[msgspec.Struct], ...] = ()  # type of each server-sent event
    query: type[msgspec.Struct] | None = None  # what may stand behind the "?"
    form: type[msgspec.Struct] | None = None  # a multipart body; fields of type bytes are files
    media: str = ""  # kind of a reply that no struct describes
    status: int = 200  # of success
    done: bool = True  # whether streams end with [DONE]
    errors: tuple[int, ...] = ()  # refusals that only this route has
    problem: type[msgspec.Struct] | None = None  # the dialect's own shape of errors
    open: bool = False  # needs no key


Operations = Mapping[tuple[str, str], Operation]


def schema(operations: Operations, *, secured: bool) -> dict[str, Any]:
    """OpenAPI 3.2. `operations` by (method, path)."""
    kinds = list(dict.fromkeys([ErrorReply, *_kinds(operations.values())]))
    found, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    refs: dict[Any, Any] = dict(zip(kinds, found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in operations.items():
        made = _Maker(method, path, operation, refs, secured).make()
        paths.setdefault(_PARAMETER.sub(r"{\1}", path), {})[method.lower()] = made
    document: dict[str, Any] = {
        "openapi": "3.2.0",
        "info": {"title": "Octavo", "version": octavo.__version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {_name(status): _problem(status, [refs[ErrorReply]]) for status in _PROBLEMS},
        },
    }
    if secured:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        document["security"] = [{"bearer": []}, {"key": []}]
    return document


def _kinds(operations: Iterable[Operation]) -> Iterator[type[msgspec.Struct]]:
    for one in operations:
        kinds = (one.request, *one.replies, *one.stream, one.problem)
        yield from (kind for kind in kinds if kind is not None)


def _name(status: int) -> str:
    return f"Problem{status}"


def _problem(status: int, shapes: Sequence[Any]) -> dict[str, Any]:
    headers: dict[str, Any] = {"X-Request-Id": {"schema": {"type": "string"}}}
    if status in (429, 503):
        headers["Retry-After"] = {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}
    if status == 401:
        headers["WWW-Authenticate"] = {"schema": {"const": "Bearer"}}
    content = {_JSON: {"schema": _any_of(shapes)}}
    return {"description": _PROBLEMS[status], "headers": headers, "content": content}


class _Maker:
    """One operation of the document."""

    def __init__(
        self, method: str, path: str, operation: Operation, refs: Mapping[type, Any], secured: bool
    ) -> None:
        self._method = method
        self._names = _PARAMETER.findall(path)
        self._operation = operation
        self._refs = refs
        self._secured = secured

    def make(self) -> dict[str, Any]:
        made: dict[str, Any] = {"summary": self._operation.summary}
        if parameters := [*self._path(), *self._query()]:
            made["parameters"] = parameters
        if (body := self._body()) is not None:
            made["requestBody"] = {"required": True, "content": body}
        made["responses"] = self._responses()
        if self._operation.open and self._secured:
            made["security"] = []
        return made

    def _path(self) -> Iterator[dict[str, Any]]:
        for name in self._names:
            yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}

    def _query(self) -> Iterator[dict[str, Any]]:
        if (kind := self._operation.query) is None:
            return
        fields = _fields(kind)
        for name, field in fields["properties"].items():
            required = name in fields.get("required", ())
            yield {"name": name, "in": "query", "required": required, "schema": field}

    def _body(self) -> dict[str, Any] | None:
        operation = self._operation
        if operation.request is not None:
            return {_JSON: {"schema": self._refs[operation.request]}}
        return None if operation.form is None else {_FORM: {"schema": _form(operation.form)}}

    def _responses(self) -> dict[str, Any]:
        operation = self._operation
        content: dict[str, Any] = {}
        if operation.replies:
            content[_JSON] = {"schema": self._one_of(operation.replies)}
        if operation.media:
            content[operation.media] = {"schema": {}}
        if operation.stream:
            content[_EVENTS] = {"itemSchema": self._event()}
        headers = {"X-Request-Id": {"schema": {"type": "string"}}}
        success = {"description": "success", "headers": headers, "content": content}
        refusals = {str(status): self._refusal(status) for status in sorted(self._refusals())}
        return {str(operation.status): success, **refusals}

    def _refusal(self, status: int) -> dict[str, Any]:
        """What is refused before the app sees it is told in OpenAI's shape on every route."""
        if (own := self._operation.problem) is None:
            return {"$ref": f"#/components/responses/{_name(status)}"}
        return _problem(status, [self._refs[own], self._refs[ErrorReply]])

    def _refusals(self) -> set[int]:
        operation = self._operation
        found = {*_ALWAYS, *operation.errors}
        if self._secured and not operation.open:
            found.add(401)
        if self._method not in _FREE:
            found.add(429)
        if self._names or operation.request is not None or operation.form is not None:
            found.add(404)  # each names a model or a thing
        return found

    def _event(self) -> dict[str, Any]:
        """A server-sent event: its data is JSON text, or the word that ends the stream."""
        told = self._one_of((*self._operation.stream, self._operation.problem or ErrorReply))
        data: dict[str, Any] = {"type": "string", "contentMediaType": _JSON, "contentSchema": told}
        if self._operation.done:
            data = {"anyOf": [{"const": "[DONE]"}, data]}
        return {"type": "object", "required": ["data"], "properties": {"data": data}}

    def _one_of(self, kinds: Sequence[type]) -> Any:
        return _any_of([self._refs[kind] for kind in kinds])


def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A flat struct's own schema: parameters and forms hold no structs."""
    found: dict[str, Any] = msgspec.json.schema(kind)["$defs"][kind.__name__]
    found["properties"] = {name: _given(field) for name, field in found["properties"].items()}
    return found


def _given(field: dict[str, Any]) -> dict[str, Any]:
    """Without null: what is sent as text can only be left out."""
    shapes = [shape for shape in field.get("anyOf", ()) if shape != {"type": "null"}]
    if len(shapes) != 1:
        return field
    return {
        **shapes[0],
        **{name: value for name, value in field.items() if name != "anyOf" and value is not None},
    }


def _form(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Files come as they are, not as text in base64."""
    fields = _fields(kind)
    for name, field in fields["properties"].items():
        if field.get("contentEncoding") == "base64":
            fields["properties"][name] = {
                "type": "string",
                "format": "binary",  # what older generators of clients know
                "contentMediaType": "application/octet-stream",
            }
    return fields


def _any_of(shapes: Sequence[Any]) -> Any:
    return shapes[0] if len(shapes) == 1 else {"anyOf": list(shapes)}


def page(operations: Operations) -> str:
    """A plain list of the routes; works without the internet."""
    rows = "".join(
        f"<tr><td>{method}</td><td><code>{html.escape(path)}</code></td><td>{html.escape(op.summary)}</td></tr>"
        for (method, path), op in operations.items()
    )
    return (
        "<!doctype html><meta charset=utf-8><title>Octavo</title>"
        "<style>body{font:16px system-ui;margin:3em}td{padding:.3em 1em .3em 0}</style>"
        f"<h1>Octavo {octavo.__version__}</h1><table>{rows}</table>"
        '<p>Every field and type: <a href="openapi.json">openapi.json</a></p>'
    )
