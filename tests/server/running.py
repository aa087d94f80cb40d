"""A server on a real socket in this loop, over the fake engine."""

from __future__ import annotations

import asyncio

from octavo.config.engine import EngineConfig
from octavo.config.observe import ObserveConfig
from octavo.config.serve import ServeConfig
from octavo.core.errors import EngineDead
from octavo.server.port import listen
from octavo.server.run import Stop, answer
from tests.server.fake_engine import House

QUIET = EngineConfig(
    serve=ServeConfig(shutdown_timeout=20.0), observe=ObserveConfig(disable_uvicorn_access_log=True)
)


class Running:
    def __init__(self, house: House) -> None:
        self.house = house
        self.stop = Stop()
        self.listener = listen("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        self.ready = asyncio.Event()
        serving = answer(house.service, self.listener, self.stop, self.ready.set, give_up=self.give_up)
        self.task = asyncio.ensure_future(serving)

    async def __aenter__(self) -> Running:
        await self.ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.asked.set()
        self.stop.again.set()
        await self.task
        self.listener.close()

    async def give_up(self) -> None:
        self.house.engine.broken = EngineDead("the engine was shut down")
        self.house.engine.go.set()

    async def send(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        return reader, writer
