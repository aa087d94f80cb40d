"""The periodic line: what the engine did since the last one. Silent while nothing happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from octavo.core.events import CoreStats
from octavo.observe.meter import Meter

_log = logging.getLogger(__name__)


class Ticker:
    """Makes one line of statistics out of two snapshots."""

    def __init__(self, meter: Meter, stats: Callable[[], CoreStats]) -> None:
        self._meter = meter
        self._stats = stats
        self._then = meter.clock()
        self._before = (0, 0)

    def line(self) -> str | None:
        """What happened since the last call; None when nothing did."""
        now, stats = self._meter.clock(), self._stats()
        counts = (self._meter.prompt_tokens, self._meter.generated_tokens)
        seconds = max(1e-9, now - self._then)
        prompt, generated = ((a - b) / seconds for a, b in zip(counts, self._before, strict=True))
        busy = counts != self._before or stats.running or stats.waiting
        self._then, self._before = now, counts
        if not busy:
            return None
        hits = stats.prefix_hits / max(1, stats.prefix_queries)
        return (
            f"{stats.running} running, {stats.waiting} waiting | "
            f"prompt {prompt:.1f} tok/s, generation {generated:.1f} tok/s | "
            f"KV {stats.blocks_used / max(1, stats.blocks_total):.1%} used, prefix hits {hits:.1%}"
        )

    async def run(self, every: float) -> None:
        """Logs a line each `every` seconds until cancelled."""
        while True:
            await asyncio.sleep(every)
            if line := self.line():
                _log.info(line)
