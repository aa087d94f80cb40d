"""A house for each test: the app, and the engine behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.server.fake_engine import House


@pytest.fixture
def open_house() -> Iterator[Callable[..., House]]:
    """Makes houses; closes them at the end."""
    houses: list[House] = []

    def make(*args: object, **more: object) -> House:
        houses.append(House(*args, **more))
        return houses[-1]

    yield make
    for house in houses:
        house.service.close()
        house.service.files.close()


@pytest.fixture
def house(open_house: Callable[..., House]) -> House:
    return open_house()
