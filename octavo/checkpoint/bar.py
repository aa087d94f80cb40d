"""A progress bar on the terminal for fetches nobody else reports on."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Bar:
    """Call it with (stage, share). Shows nothing until the first call, so a cached file stays quiet."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None
        self._stage: Any = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, share: float) -> None:
        if self._bar is None:
            self._bar = _make()
            self._bar.start()
        if stage != self._stage:
            self._stage, self._task = stage, self._bar.add_task(f"{self._title}: {stage}", total=1.0)
        self._bar.update(self._task, completed=share)


def _make() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(file=sys.stderr))
