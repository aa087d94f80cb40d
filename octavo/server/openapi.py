"""/openapi.json, made from the very types that read and write the bodies, and a page that shows it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

import octavo
from octavo.server.openai.errors import ErrorReply

_REF = "#/components/schemas/{name}"


class Operation(NamedTuple):
    """What the schema says of one route."""

    summary: str
    request: type[msgspec.Struct] | None = None
    replies: tuple[type[msgspec.Struct], ...] = ()
    stream: tuple[type[msgspec.Struct], ...] = ()  # type of each server-sent event
    query: type[msgspec.Struct] | None = None  # what may stand behind the "?"
    done: bool = True  # whether streams end with [DONE]
    problem: type[msgspec.Struct] | None = None  # the dialect's own shape of errors


def schema(operations: Mapping[tuple[str, str], Operation], *, secured: bool) -> dict[str, Any]:
    """OpenAPI 3.1. `operations` by (method, path)."""
    kinds: list[type[msgspec.Struct]] = [ErrorReply]
    for operation in operations.values():
        told = (*operation.replies, *operation.stream, operation.problem)
        kinds += [k for k in (operation.request, operation.query, *told) if k is not None]
    kinds = list(dict.fromkeys(kinds))
    refs, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    by_kind = dict(zip(kinds, refs, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in operations.items():
        made = _operation(path, operation, by_kind)
        if operation.query is not None:
            made["parameters"] = [
                *made.get("parameters", ()),
                *(
                    {"name": name, "in": "query", "schema": part}
                    for name, part in components[operation.query.__name__]["properties"].items()
                ),
            ]
        paths.setdefault(path, {})[method.lower()] = made
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Octavo", "version": octavo.__version__},
        "paths": paths,
        "components": {"schemas": components},
    }
    if secured:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _operation(path: str, operation: Operation, refs: Mapping[type, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.replies:
        content["application/json"] = {"schema": _one_of(operation.replies, refs)}
    if operation.stream:
        content["text/event-stream"] = {"schema": _one_of(operation.stream, refs)}
    problem = refs[operation.problem or ErrorReply]
    failure = {"description": "error", "content": {"application/json": {"schema": problem}}}
    result: dict[str, Any] = {
        "summary": operation.summary,
        "responses": {"200": {"description": "success", "content": content}, "default": failure},
    }
    if operation.request is not None:
        body = {"application/json": {"schema": refs[operation.request]}}
        result["requestBody"] = {"required": True, "content": body}
    names = [part[1:-1].partition(":")[0] for part in path.split("/") if part.startswith("{")]
    if names:
        result["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return result


def _one_of(kinds: Sequence[type], refs: Mapping[type, Any]) -> Any:
    return refs[kinds[0]] if len(kinds) == 1 else {"oneOf": [refs[kind] for kind in kinds]}


def page(operations: Mapping[tuple[str, str], Operation]) -> str:
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
