"""The life of a core process: how it is started, told its settings, watched and ended.

Both sides of the birth are here: `CoreProcess` is the parent's handle, `read_boot` and
`die_with_parent` are what the child does first. Knows nothing of requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import struct
import sys
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

import msgspec

from octavo.config import env
from octavo.config.engine import EngineConfig
from octavo.core import errors
from octavo.core.errors import EngineDead, EngineError, Fault
from octavo.core.facts import ModelFiles
from octavo.core.mail import Failed
from octavo.core.wire import Codec

_LENGTH = struct.Struct("<I")
_BOOT_LIMIT = 16 << 20  # bytes; settings are a few KB
_PR_SET_PDEATHSIG = 1
MODULE = "octavo.engine.process"


class Boot(msgspec.Struct, frozen=True):
    """All a core is told at birth; travels through its stdin, so that no key shows in `ps`."""

    config: EngineConfig
    files: ModelFiles
    address: str
    parent: int


BOOT: Codec[Boot] = Codec(Boot)


class CoreProcess:
    """A running core. `address` is a socket in a directory only this user can enter."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self.pid = process.pid

    @classmethod
    async def spawn(cls, module: str, config: EngineConfig, files: ModelFiles, folder: Path) -> CoreProcess:
        """Starts a child in its own session, so that Ctrl-C in the terminal reaches only the front."""
        address = address_in(folder)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
            env=env.child_environment(OCTAVO_API_KEY=""),  # keys are no business of the core
        )
        assert process.stdin is not None
        frame = BOOT.encode(Boot(config, files, address, os.getpid()))
        process.stdin.write(_LENGTH.pack(len(frame)) + frame)
        with contextlib.suppress(ConnectionError):  # it died at once: wait() tells
            await process.stdin.drain()
        return cls(process, folder)

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> EngineDead:
        """Returns, as an error, how the process ended."""
        return EngineDead(f"the engine process {describe_exit(await self._process.wait())}")

    async def end(self, grace: float) -> None:
        """Waits `grace` seconds for it to leave by itself, then kills it; removes its folder."""
        try:
            await asyncio.wait_for(self._process.wait(), grace)
        except asyncio.TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def private_folder() -> Path:
    """A new directory (mode 0700) for the socket. Short: a unix socket's path ends at 107 bytes."""
    for base in (env.read("XDG_RUNTIME_DIR"), tempfile.gettempdir()):
        if base and len(base) < 80 and os.access(base, os.W_OK | os.X_OK):
            return Path(tempfile.mkdtemp(prefix="octavo-", dir=base))
    return Path(tempfile.mkdtemp(prefix="octavo-", dir="/tmp"))


def address_in(folder: Path) -> str:
    return f"ipc://{folder}/core"


def describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def rebuild_error(failed: Failed) -> EngineError:
    """The error a core reported, in its own class where that class is one of ours."""
    kind = vars(errors).get(failed.kind)
    if not (isinstance(kind, type) and issubclass(kind, EngineError)) or kind is errors.Overloaded:
        kind = Fault
    error: EngineError = kind(failed.message, hint=failed.hint, field=failed.field)
    return error


def read_boot(stream: BinaryIO) -> Boot:
    """Child: the settings from stdin. Fault when they are cut off."""
    head = stream.read(_LENGTH.size)
    size = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
    frame = stream.read(size) if 0 < size <= _BOOT_LIMIT else b""
    if not frame or len(frame) < size:
        raise Fault("the settings on stdin were cut off; octavo.engine.process is started by octavo serve")
    return BOOT.decode(frame)


def die_with_parent(parent: int, stream: BinaryIO) -> None:
    """Child: no core outlives its front, however that one ended.

    The kernel's signal also reaches a process stuck in native code; the end of stdin also
    reaches one whose front was gone before the signal was asked for.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    descriptor = stream.fileno()

    def watch() -> None:
        while os.read(descriptor, 1):  # not stream.read: it would hold a lock that exit waits for
            pass
        os._exit(1)

    threading.Thread(target=watch, name="octavo-parent-watch", daemon=True).start()
