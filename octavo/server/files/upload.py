"""A multipart form, read as it comes in: the file's bytes go to disk piece by piece.

Every size is bounded before anything is kept: the parser bounds heads and fields, the upload
its file and its tenant's whole. The client's file name is only a label.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser
from multipart import parse_options_header as parse_options
from starlette.requests import ClientDisconnect, Request

from octavo.core.errors import UserError
from octavo.server.files.store import FileStore, Stored, Upload
from octavo.server.files.types import FileForm
from octavo.server.openai.errors import Problem
from octavo.server.sse import ClientGone

FORM_ROOM = 64 << 10  # bytes of a form besides the file: fields, heads, boundaries
_FIELD = 1024
_PARTS = 8
_NAME = 255


class _File(msgspec.Struct):
    name: str
    upload: Upload


async def receive(store: FileStore, tenant: str, request: Request) -> Stored:
    """The file of one upload request, kept. Whatever goes wrong leaves nothing behind."""
    form = _Form(store, tenant)
    announced = int(request.headers.get("content-length", 0))  # a number: the body limit has read it
    store.quota.check(tenant, max(0, announced - FORM_ROOM))
    try:
        async for event in _events(request):
            await form.take(event)
        return await form.keep()
    except ClientDisconnect:
        raise ClientGone from None
    except ParserLimitReached as error:
        raise Problem(413, f"the form is too large: {error}", field="body") from None
    except MultipartError as error:
        hint = "send multipart/form-data with the fields file and purpose"
        raise UserError(f"the form cannot be read: {error}", hint=hint, field="body") from None
    finally:
        form.discard()


async def _events(request: Request) -> AsyncIterator[MultipartSegment | bytes | None]:
    kind, options = parse_options(request.headers.get("content-type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        hint = "send multipart/form-data with the fields file and purpose"
        raise UserError(f"the body's content type is {kind[:80]!r}", hint=hint, field="Content-Type")
    parser = PushMultipartParser(options["boundary"], max_segment_count=_PARTS, strict=True)
    with parser:
        async for chunk in request.stream():
            if chunk:
                for event in parser.parse(chunk):
                    yield event


class _Form:
    """What came in so far."""

    def __init__(self, store: FileStore, tenant: str) -> None:
        self._store = store
        self._tenant = tenant
        self._file: _File | None = None
        self._fields: dict[str, str] = {}
        self._segment: MultipartSegment | None = None
        self._text = b""

    async def take(self, event: MultipartSegment | bytes | None) -> None:
        if isinstance(event, MultipartSegment):
            self._begin(event)
        elif event is None:
            self._end()
        elif self._in_file:
            assert self._file is not None
            await self._file.upload.write(bytes(event))
        else:
            self._text += event
            if len(self._text) > _FIELD:
                raise Problem(413, f"a field of the form is longer than {_FIELD} bytes", field="body")

    async def keep(self) -> Stored:
        """Checks the whole form and keeps the file."""
        if self._file is None:
            raise UserError("the form has no file", hint="send it as the field 'file'", field="file")
        form = _checked(self._fields)
        return await self._file.upload.keep(self._file.name, form.purpose, form.expires_after_seconds)

    def discard(self) -> None:
        if self._file is not None:
            self._file.upload.discard()

    @property
    def _in_file(self) -> bool:
        return self._segment is not None and self._segment.name == "file"

    def _begin(self, segment: MultipartSegment) -> None:
        self._segment, self._text = segment, b""
        name = segment.name or ""
        if name in self._fields or (self._in_file and self._file is not None):
            raise UserError(f"{name[:40]!r} comes twice", hint="send every field once", field="body")
        if self._in_file:
            self._file = _File(_label(segment.filename), self._store.begin(self._tenant))

    def _end(self) -> None:
        if not self._in_file and self._segment is not None:
            self._fields[self._segment.name or ""] = self._text.decode("utf-8", "replace")
        self._segment = None


def _checked(fields: dict[str, str]) -> FileForm:
    """The other fields. UserError names the first bad one."""
    if "purpose" not in fields:
        raise UserError("purpose is missing", hint="'batch' is the one there is", field="purpose")
    if fields["purpose"] != "batch":
        hint = "'batch' is the one there is"
        raise UserError(f"purpose {fields['purpose'][:40]!r} does not exist here", hint=hint, field="purpose")
    try:
        form = msgspec.convert({**fields, "file": b""}, FileForm, strict=False)
    except msgspec.ValidationError as error:
        hint = "anchor is 'created_at', seconds lie between 3600 and 2592000"
        raise UserError(f"expires_after: {error}", hint=hint, field="expires_after") from None
    if (form.expires_after_anchor is None) != (form.expires_after_seconds is None):
        raise UserError("expires_after needs anchor and seconds", hint="send both", field="expires_after")
    return form


def _label(name: str | None) -> str:
    """The client's file name, fit to be shown; never used for anything else."""
    shown = "".join(c for c in name or "" if c.isprintable())
    return shown[-_NAME:] or "upload"
