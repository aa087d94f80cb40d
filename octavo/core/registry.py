"""Names to classes. A package is scanned on the first miss; a wrong name suggests close ones."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from octavo.core.errors import NotFound

T = TypeVar("T")


class Registry(Generic[T]):
    """One extension point.

    `package` is imported module by module on the first miss, so a new file needs no list to
    be edited; outside packages register under the entry point group `octavo.<kind>`.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._items: dict[str, T] = {}
        self._scanned = False

    def register(self, *names: str) -> Callable[[T], T]:
        def add(item: T) -> T:
            for name in names:
                self._items[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """The item of that name. NotFound, with the closest names, when there is none."""
        if name not in self._items:
            self._scan()
        if name not in self._items:
            close = difflib.get_close_matches(name, self._items, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(self.names())}"
            raise NotFound(f"unknown {self.kind} {name!r}", hint=hint, field=self.kind)
        return self._items[name]

    def names(self) -> list[str]:
        self._scan()
        return sorted(self._items)

    def __iter__(self) -> Iterator[tuple[str, T]]:
        self._scan()
        return iter(sorted(self._items.items(), key=lambda pair: pair[0]))

    def _scan(self) -> None:
        if self._scanned:
            return
        self._scanned = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, self._package + "."):
            importlib.import_module(module.name)
        for entry in entry_points(group=f"octavo.{self.kind}"):
            self._items.setdefault(entry.name, entry.load())
