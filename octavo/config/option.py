"""option(): one place for a setting's default, help, choices, range and names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

_KEY = "octavo.option"


class Option(NamedTuple):
    """What the command line, the docs and the checks know of a field.

    `flag` defaults to the field's name with dashes; `aliases` are further flags. `serve_only`
    fields are not arguments of `LLM`. `kind` "size" accepts 4k, 2GiB and the like. `spellings` are
    (other name, choice): with them, choices are read without regard to case.
    """

    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    flag: str | None = None
    aliases: tuple[str, ...] = ()
    kind: str = ""  # "" | "size" | "list" | "json" | "path"
    serve_only: bool = False
    secret: bool = False
    spellings: tuple[tuple[str, str], ...] = ()


def option(default: Any, help: str, **facts: Any) -> Any:
    """A dataclass field with its Option attached."""
    return dataclasses.field(default=default, metadata={_KEY: Option(help, **facts)})


def options(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Option]]:
    """Every option of a config dataclass, in order."""
    for field in dataclasses.fields(kind):
        if (found := field.metadata.get(_KEY)) is not None:
            yield field, found
