"""Names of blocks: equal names mean equal KV. Knows nothing of pages.

A name is a BLAKE2b digest over the name of the block before and the block's tokens; the first
one stands on everything else that changes KV: the model, the adapter, the tenant's salt.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

from octavo.core.request import EngineRequest, MediaSpan

_SIZE = 32  # bytes; wide enough that nobody finds a collision on purpose


def root(model_key: str, request: EngineRequest) -> bytes:
    """The name before the first block. Fields are length-prefixed, so that none runs into the next."""
    digest = blake2b(digest_size=_SIZE, person=b"octavo-kv")
    for field in (model_key, request.adapter or "", request.salt):
        data = field.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


class Chain:
    """Names of a request's blocks of one size, each computed once, in order."""

    __slots__ = ("_last", "_media", "keys", "size")

    def __init__(self, start: bytes, size: int, media: tuple[MediaSpan, ...] = ()) -> None:
        self.size = size
        self.keys: list[bytes] = []
        self._last = start
        self._media = media

    def extend(self, tokens: array[int], blocks: int) -> list[bytes]:
        """At least the first `blocks` names; `tokens` (int32) may only have grown since the last call."""
        size = self.size
        for n in range(len(self.keys), blocks):
            low, high = n * size, (n + 1) * size
            digest = blake2b(self._last, digest_size=_SIZE)
            digest.update(tokens[low:high].tobytes())
            for span in self._media:
                if span.at < high and span.at + span.length > low:
                    digest.update(span.hash + span.at.to_bytes(8, "little"))
            self._last = digest.digest()
            self.keys.append(self._last)
        return self.keys
