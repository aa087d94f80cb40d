"""Cores on a device made of lists, in this process and in one of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from octavo.config.engine import EngineConfig
from octavo.core.facts import ModelFiles
from octavo.core.request import EngineRequest, Sampling
from octavo.engine.client import CoreClient

MODULE = "tests.unit.engine.fake_core"


def files(name: str = "fine") -> ModelFiles:
    return ModelFiles(name=name, root="", weights=(), format="dummy", config=None, tokenizer="")


def request(id: str = "a", *, prompt: int = 5, **sampling: object) -> EngineRequest:
    tokens = tuple((7 * n + len(id)) % 20 for n in range(prompt))
    return EngineRequest(id=id, tokens=tokens, seed=1, sampling=Sampling(**{"max_tokens": 8, **sampling}))


Start = Callable[..., object]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts clients; closes them at the end."""
    async with AsyncExitStack() as stack:

        async def starter(
            name: str = "fine", config: EngineConfig | None = None, **more: object
        ) -> CoreClient:
            client = CoreClient(config or EngineConfig(), files(name), module=MODULE, **more)
            stack.push_async_callback(client.close)
            await client.start()
            return client

        yield starter
