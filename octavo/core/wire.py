"""msgpack by schema for every message that crosses a process border. Never pickle."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from octavo.core.errors import Fault

T = TypeVar("T")


class Codec(Generic[T]):
    """Encodes and decodes one type (or union); a frame that does not fit the schema is a Fault."""

    def __init__(self, kind: type[T] | object) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode  # type: ignore[call-overload]

    def encode(self, value: T) -> bytes:
        return self._encode(value)

    def decode(self, frame: bytes | memoryview) -> T:
        try:
            return self._decode(frame)  # type: ignore[no-any-return]
        except msgspec.MsgspecError as error:
            raise Fault(f"a message did not fit its schema: {error}") from error
