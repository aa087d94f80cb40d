"""/v1/files: upload, list, look up, read, delete. A tenant sees its own files only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from octavo.core.errors import UserError
from octavo.server.body import reply
from octavo.server.files import upload
from octavo.server.files.types import FileDeleted, FileList, FileObject, FileQuery
from octavo.server.query import read_query
from octavo.server.service import Service


class HasId(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=HasId)


async def create(service: Service, request: Request) -> Response:
    stored = await upload.receive(service.files, request.scope["tenant"], request)
    return reply(stored.file)


async def listing(service: Service, request: Request) -> Response:
    query = read_query(request, FileQuery)
    files: list[FileObject] = [one.file for one in service.files.of(request.scope["tenant"])]
    if query.purpose is not None:
        files = [one for one in files if one.purpose == query.purpose]
    if query.order == "desc":
        files.reverse()
    shown, more = page(files, query.after, query.limit)
    first, last = ends(shown)
    return reply(FileList(data=shown, first_id=first, last_id=last, has_more=more))


async def one(service: Service, request: Request) -> Response:
    return reply(service.files.find(request.scope["tenant"], request.path_params["file_id"]).file)


async def content(service: Service, request: Request) -> Response:
    """The bytes as they came in. Never shown by a browser as a page."""
    file = service.files.find(request.scope["tenant"], request.path_params["file_id"]).file
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    return _WholeFile(
        service.files.data(file.id),
        media_type="application/octet-stream",
        filename=f"{file.id}.jsonl",
        headers=headers,
    )


class _WholeFile(FileResponse):
    """Without ranges, whose refusals would not have our shape."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del self.headers["accept-ranges"]
        asked = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        await super().__call__({**scope, "headers": asked}, receive, send)


async def delete(service: Service, request: Request) -> Response:
    id: str = request.path_params["file_id"]
    service.files.delete(request.scope["tenant"], id)
    return reply(FileDeleted(id=id))


def page(items: Sequence[Item], after: str | None, limit: int) -> tuple[list[Item], bool]:
    """Up to `limit` items behind the one called `after`, and whether more follow."""
    start = 0
    if after is not None:
        at = next((n for n, item in enumerate(items) if item.id == after), None)
        if at is None:
            raise UserError(
                f"nothing is called {after[:80]!r}", hint="send an id of this list", field="after"
            )
        start = at + 1
    return list(items[start : start + limit]), start + limit < len(items)


def ends(items: Sequence[HasId]) -> tuple[str | None, str | None]:
    """Ids of the first and the last."""
    return (items[0].id, items[-1].id) if items else (None, None)
