"""Compiling many kernels at once: a rehearsal notes what would be launched, threads compile it.

What is noted is not launched, so its arguments need memory but no meaning; what torch itself computes in
between is computed on whatever is there. Kernels that are compiled already run as usual, unless silent.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton

from octavo.ops.cuda import program
from octavo.ops.cuda.program import Program
from octavo.ops.triton import launchers
from octavo.ops.triton.compile_apart import Compiler, Kernel

_log = logging.getLogger(__name__)
_LOOK = 0.2  # seconds between two looks whether the engine is idle


class _Noted(NamedTuple):
    prepare: Callable[[], Any]
    kernel: Kernel | None = None  # of Triton, whose compiler holds the interpreter


class Rehearsal:
    """Kernels noted so far, each once."""

    def __init__(self) -> None:
        launchers.keep_apart()
        self._noted: dict[tuple[str, str], _Noted] = {}
        self._programs: set[Program] = set()

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Launches inside are noted instead."""
        before = triton.knobs.runtime.jit_cache_hook
        triton.knobs.runtime.jit_cache_hook = self._note
        try:
            with program.noting(self._programs.add):
                yield
        finally:
            triton.knobs.runtime.jit_cache_hook = before

    @staticmethod
    @contextmanager
    def silent() -> Iterator[None]:
        """Inside, kernels that are compiled already are not launched either: what they read may be what one
        that is only noted would have written, addresses among it."""
        run = triton.JITFunction.run

        def ask(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
            return run(self, *args, grid=grid, warmup=True, **kwargs)

        triton.JITFunction.run = ask
        try:
            yield
        finally:
            triton.JITFunction.run = run

    def compile(self, threads: int) -> None:
        """Compiles what was noted, or takes it from triton's cache on disk; returns when all is ready.

        One that fails here is compiled, and fails, where it is launched.
        """
        make = _forgiving(torch.cuda.current_device())
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(make, (noted.prepare for noted in self._take())))

    def compile_later(self, idle: Callable[[], bool]) -> Callable[[], None]:
        """The same behind the caller's back, a kernel at a time. Triton's compiler holds the interpreter and
        would hold up every step, so its kernels are compiled by a process and loaded here while `idle`. The
        result ends it, after the kernel it is at."""
        make = _forgiving(torch.cuda.current_device())
        waiting, ended = self._take(), threading.Event()
        compiler = Compiler(triton.runtime.driver.active.get_current_target())

        def work() -> None:
            for noted in waiting:
                if noted.kernel is not None:
                    ahead(noted.kernel)
                while not idle() and not ended.wait(_LOOK):
                    pass
                if ended.is_set():
                    return
                make(noted.prepare)
            compiler.end()

        def ahead(kernel: Kernel) -> None:
            try:
                compiler.make(kernel)
            except RuntimeError as error:
                _log.debug("not compiled apart: %s", error)

        thread = threading.Thread(target=work, name="octavo-compile", daemon=True)
        thread.start()

        def end() -> None:
            ended.set()
            compiler.end()
            thread.join()

        return end

    def _take(self) -> list[_Noted]:
        """What was noted, from now on no more. First what does not hold the interpreter while it compiles."""
        noted = [*(_Noted(made.ready) for made in self._programs), *self._noted.values()]
        self._programs, self._noted = set(), {}
        return noted

    def _note(self, *, key: str, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        jit, data = fn.jit_function, compile["specialization_data"]
        # with its launcher, which else is made at the first launch
        self._noted[fn.name, key] = _Noted(lambda: jit.preload(data).run, Kernel(fn.module, fn.name, data))
        return True


def _forgiving(device: int) -> Callable[[Callable[[], Any]], None]:
    def attempt(prepare: Callable[[], Any]) -> None:
        try:
            torch.cuda.set_device(device)  # a thread begins with the first
            prepare()
        except Exception as error:
            _log.debug("not compiled ahead: %s", error)

    return attempt
