"""What /v1/files reads and writes, in OpenAI's words."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MOST_LISTED = 10_000


class FileObject(msgspec.Struct, kw_only=True):
    """A file as clients see it."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    status_details: str | None = None


class FileList(msgspec.Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    deleted: bool = True


class FileForm(msgspec.Struct, kw_only=True):
    """The fields of an upload, sent as multipart/form-data."""

    file: bytes
    purpose: Literal["batch"]
    expires_after_anchor: Literal["created_at"] | None = msgspec.field(
        default=None, name="expires_after[anchor]"
    )
    expires_after_seconds: Annotated[int, msgspec.Meta(ge=3600, le=2592000)] | None = msgspec.field(
        default=None, name="expires_after[seconds]"
    )


class FileQuery(msgspec.Struct, kw_only=True):
    """Which files a list holds."""

    purpose: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_LISTED)] = MOST_LISTED
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
