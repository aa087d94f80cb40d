"""Run as `python -O`: sends the bad values of the server's own tests to an app whose asserts are gone.
Prints how many were refused as they should be; ends with 1 at the first that was not."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.server.asgi import ask
from tests.server.fake_engine import House
from tests.server.test_errors import TABLE


async def main() -> int:
    if sys.flags.optimize < 1:
        print("run this with -O")
        return 1
    house = House()
    for path, body, status, *_ in TABLE:
        reply = await ask(house.app, "POST", path, body)
        if reply.status != status or house.engine.submitted:
            print(path, str(body)[:200], reply.status, reply.content)
            return 1
    house.service.close()
    print(len(TABLE))
    return 0


sys.exit(asyncio.run(main()))
