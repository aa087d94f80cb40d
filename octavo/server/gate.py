"""How much may be open at once. Counts rows, not connections: n choices are n rows."""

from __future__ import annotations

from octavo.core.errors import Overloaded

_RETRY = 2.0  # seconds after which a row is likely to have ended


class Ticket:
    """Room for some rows, until `release`, which may be called twice."""

    def __init__(self, gate: Gate, rows: int) -> None:
        self._gate = gate
        self._rows = rows

    def release(self) -> None:
        self._gate.open -= self._rows
        self._rows = 0


class Gate:
    """The queue's size, kept before anything is tokenised for a request."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.open = 0

    def take(self, rows: int) -> Ticket:
        """Room for `rows`. Overloaded when there is none now."""
        if self.open + rows > self.most:
            raise Overloaded(
                f"the queue is full: {self.open} of {self.most} places are taken, {rows} more are wanted",
                hint="try again later, or start the server with a larger --max-queue",
                retry_after=_RETRY,
            )
        self.open += rows
        return Ticket(self, rows)


class OpenGate(Gate):
    """Counts, and refuses nobody: for work whose amount is bounded elsewhere. `most` still bounds the
    rows of one request."""

    def take(self, rows: int) -> Ticket:
        self.open += rows
        return Ticket(self, rows)
