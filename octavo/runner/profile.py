"""A window of torch's profiler: a trace of kernels and operators that chrome://tracing or Perfetto opens."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from octavo.core import heap
from octavo.core.errors import UserError


class Profiler:
    """At most one window is open."""

    def __init__(self) -> None:
        self._window: profile | None = None
        self._folder = Path()

    def start(self, folder: str, operators: bool = True) -> None:
        """Begins to record; the trace will be written into `folder`, which is made. Without `operators`
        a GPU's kernels alone are recorded, which slows the host less."""
        if self._window is not None:
            raise UserError("a profile is being recorded already", hint="stop it first", field="profile")
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        host = [ProfilerActivity.CPU] if operators or not gpu else []
        self._window = profile(activities=[*gpu, *host], acc_events=True)
        self._window.start()

    def stop(self) -> str:
        """Ends the window; the trace's path."""
        window, self._window = self._window, None
        if window is None:
            raise UserError("no profile is being recorded", hint="start one first", field="profile")
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        window.stop()
        path = self._folder / f"octavo-{time.strftime('%Y%m%d-%H%M%S')}.json.gz"
        window.export_chrome_trace(str(path))
        del window
        heap.give_back()  # its events refer to each other: a second's sweep, else amid some request
        return str(path)
