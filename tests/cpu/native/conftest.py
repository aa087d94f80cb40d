"""The library, compiled once, and an engine for each instruction level this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from octavo.ops.cpu.build import library as build_library
from octavo.ops.cpu.find import find_library
from octavo.ops.cpu.lib import LEVELS, Engine, Library


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--native-flags", default="", help="compiler flags for a library of its own (sanitizers)"
    )


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    if flags := request.config.getoption("--native-flags", ""):
        return Library(build_library(tmp_path_factory.mktemp("native"), extra=flags.split()))
    found = find_library()
    if isinstance(found, str):
        pytest.skip(f"no native library: {found}")
    return found


def levels_here() -> tuple[str, ...]:
    """Those of this CPU: what it cannot run is no test that was left out."""
    found = find_library()
    return () if isinstance(found, str) else LEVELS[: LEVELS.index(found.level) + 1]


@pytest.fixture(scope="session", params=levels_here())
def engine(request: pytest.FixtureRequest, library: Library) -> Iterator[Engine]:
    made = Engine(library, 2, request.param)
    yield made
    made.close()
