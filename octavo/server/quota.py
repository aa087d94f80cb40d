"""How much one key may do: requests at once, requests and tokens a minute. Knows nothing of HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

Clock = Callable[[], float]

_SOON = 1.0  # seconds after which one of a key's open requests may have ended


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one key may do; 0 is no limit."""

    requests: int = 0  # open at once
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


class Refusal(NamedTuple):
    """Which limit is reached, and in how many seconds there may be room again."""

    what: str
    wait: float


class Bucket:
    """So many a minute: full at the start, refilled evenly. It may be overdrawn, and then gives nothing
    until that is made up for."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._most = float(per_minute)
        self._rate = per_minute / 60.0
        self._clock = clock
        self._left = self._most
        self._seen = clock()

    def take(self, amount: int) -> None:
        self._refill()
        self._left -= amount

    def wait(self) -> float:
        """Seconds until one is there."""
        self._refill()
        return max(0.0, (1.0 - self._left) / self._rate)

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._seen) * self._rate)
        self._seen = now


class Quota:
    """One key's use of its limits. Tokens are paid for when they come, since nobody knows them before."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self.limits = limits
        self.open = 0
        self._requests = Bucket(limits.requests_per_minute, clock) if limits.requests_per_minute else None
        self._tokens = Bucket(limits.tokens_per_minute, clock) if limits.tokens_per_minute else None

    def enter(self) -> Refusal | None:
        """Begins a request, or says why it may not begin now; `leave` ends it."""
        limits = self.limits
        if limits.requests and self.open >= limits.requests:
            return Refusal(f"{limits.requests} requests at once", _SOON)
        if (refusal := self.pace()) is None:
            self.open += 1
        return refusal

    def pace(self) -> Refusal | None:
        """Takes one request from what a minute allows, or says why there is none to take now."""
        limits = self.limits
        if self._tokens is not None and (wait := self._tokens.wait()):
            return Refusal(f"{limits.tokens_per_minute} tokens a minute", wait)
        if self._requests is not None:
            if wait := self._requests.wait():
                return Refusal(f"{limits.requests_per_minute} requests a minute", wait)
            self._requests.take(1)
        return None

    def leave(self) -> None:
        self.open -= 1

    def spend(self, tokens: int) -> None:
        if self._tokens is not None:
            self._tokens.take(tokens)
