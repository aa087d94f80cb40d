"""Length-prefixed frames over a socket between two processes of one host. Knows no message."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from octavo.core.errors import Fault

_HEADER = struct.Struct("<I")
LARGEST = 1 << 30  # bytes; a longer frame means that the stream is out of step


class Channel:
    """Any thread may send; one thread receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()

    def send(self, frame: bytes) -> bool:
        """False when the other side is gone."""
        if len(frame) > LARGEST:
            raise Fault(f"a frame of {len(frame)} bytes exceeds {LARGEST}")
        try:
            with self._sending:
                self._socket.sendall(_HEADER.pack(len(frame)) + frame)
        except OSError:
            return False
        return True

    def receive(self) -> bytes | None:
        """The next frame; None when the other side is gone."""
        header = self._exactly(_HEADER.size)
        if header is None:
            return None
        (size,) = _HEADER.unpack(header)
        if size > LARGEST:
            raise Fault(f"a frame claims {size} bytes, more than {LARGEST}")
        return self._exactly(size)

    def close(self) -> None:
        """Wakes a receiver, here and there."""
        with contextlib.suppress(OSError):  # the other side was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _exactly(self, size: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < size:
            try:
                part = self._socket.recv(min(size - len(parts), 1 << 20))
            except OSError:
                return None
            if not part:
                return None
            parts += part
        return bytes(parts)
