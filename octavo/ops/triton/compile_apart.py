"""A process that compiles kernels into Triton's cache on disk, for one that must not stop meanwhile: the
compiler's passes hold the interpreter for up to a second. It needs no device, only to be told of it.

Line by line, JSON each way: where to and what for, then kernels, each answered with "" or what went wrong.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class Kernel(NamedTuple):
    """One variant of a kernel; `data` as Triton's hooks tell it and `preload` takes it."""

    module: str
    name: str
    data: str


class Compiler:
    """The process, seen from the one that asks. It begins with the first kernel."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target
        self._process: subprocess.Popen[str] | None = None
        self._ended = False
        self._lock = threading.Lock()

    def make(self, kernel: Kernel) -> None:
        """Waits until it is compiled. RuntimeError where it cannot be, or the process has ended."""
        try:
            process = self._begun()
            _tell(process, kernel)
            assert process.stdout
            problem = json.loads(process.stdout.readline())
        except (OSError, ValueError) as error:  # no process, or closed there, or here
            raise RuntimeError("the compiler's process has ended") from error
        if problem:
            raise RuntimeError(problem)

    def end(self) -> None:
        """At once, whatever it is at; may be called by another thread, and again."""
        with self._lock:
            self._ended = True
            if self._process is None:
                return
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):  # what was not read is of no use
                    assert pipe
                    pipe.close()

    def _begun(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._ended:
                raise OSError("ended before it was asked")
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __spec__.name],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
                )  # fmt: skip
                target = self._target
                _tell(self._process, (triton.knobs.cache.dir, target.backend, target.arch, target.warp_size))
            return self._process


def _tell(process: subprocess.Popen[str], what: Any) -> None:
    assert process.stdin
    process.stdin.write(json.dumps(what) + "\n")
    process.stdin.flush()


class _Told:
    """Stands in for Triton's driver: a device that is elsewhere."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self._target


def _compile(kernel: Kernel) -> str:
    try:
        getattr(importlib.import_module(kernel.module), kernel.name).preload(kernel.data)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _serve() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # a compiler's own words are no answers
    os.nice(10)
    triton.knobs.cache.dir, *target = json.loads(sys.stdin.readline())
    driver.set_active(_Told(GPUTarget(*target)))
    for line in sys.stdin:
        print(json.dumps(_compile(Kernel(*json.loads(line)))), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
