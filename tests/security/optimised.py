"""Run as `python -O`: sends the bad fields of the one table (tests/bad) to an app whose asserts are gone.
Prints how many were refused as they should be; ends with 1 at the first that was not."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bad.fields import FIELDS
from tests.bad.row import World
from tests.server.asgi import Reply, ask
from tests.server.fake_engine import House


class Neighbour:
    """As the table's own, without a socket."""

    def __init__(self) -> None:
        self.house = House()
        self._loop = asyncio.new_event_loop()

    def ask(self, method: str, path: str, **more: Any) -> Reply:
        return self._loop.run_until_complete(ask(self.house.app, method, path, **more))

    def close(self) -> None:
        self.house.service.close()
        self._loop.close()


def main() -> int:
    if sys.flags.optimize < 1:
        print("run this with -O")
        return 1
    neighbour = Neighbour()
    for row in FIELDS:
        told = row.do(World(neighbour, Path()))
        if told.kind != row.kind or row.remedy not in told.hint or neighbour.house.engine.submitted:
            print(row.name, told)
            return 1
    neighbour.close()
    print(len(FIELDS))
    return 0


sys.exit(main())
