"""How many bytes each tenant holds. Knows no file."""

from __future__ import annotations

from octavo.server.openai.errors import Problem


class Quota:
    """One limit for every tenant, so that nobody's files take another's room."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[str, int] = {}

    def held(self, tenant: str) -> int:
        return self._held.get(tenant, 0)

    def take(self, tenant: str, size: int) -> None:
        """Counts `size` bytes more. Problem (413) when they are too many."""
        if self.held(tenant) + size > self.most:
            hint = "delete files that are done with, or start the server with a larger --max-files-bytes"
            message = f"your files together would be larger than {self.most} bytes"
            raise Problem(413, message, hint=hint, field="file")
        self.count(tenant, size)

    def check(self, tenant: str, size: int) -> None:
        """As `take`, without counting: for bytes that are announced."""
        self.take(tenant, size)
        self.count(tenant, -size)

    def count(self, tenant: str, size: int) -> None:
        """Counts bytes that are there, or, below zero, that have gone."""
        self._held[tenant] = self.held(tenant) + size
        if not self._held[tenant]:
            del self._held[tenant]
