"""The library, compiled once, and an engine for each instruction level this machine has."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
import torch

from octavo.ops.cpu.build import find_compiler
from octavo.ops.cpu.lib import Engine, Library
from tests.cpu.native.remote.calls import RemoteLibrary, compile_server
from tests.cpu.native.tiles import library_here

_LIBRARY = pytest.StashKey[Library]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--native-flags", default="", help="compiler flags for a library of its own (sanitizers)"
    )
    parser.addoption(
        "--native-server",
        default="",
        help="command of a library in another process (remote/): serve LIBRARY, behind an emulator perhaps",
    )


def library_of(config: pytest.Config) -> Library:
    """Of this run: in another process, or in this one, of other flags or not."""
    if _LIBRARY not in config.stash:
        if command := config.getoption("--native-server", ""):
            config.stash[_LIBRARY] = RemoteLibrary(shlex.split(command))
        else:
            flags = shlex.split(config.getoption("--native-flags", ""))
            config.stash[_LIBRARY] = Library(library_here(flags))
    return config.stash[_LIBRARY]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Levels of this CPU (or of the emulated one): what it cannot run is no test that was left out."""
    for fixture in {"engine", "guarded_engine"} & set(metafunc.fixturenames):
        levels = library_of(metafunc.config).levels
        metafunc.parametrize(fixture, levels, indirect=True, scope="session")


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def library(request: pytest.FixtureRequest) -> Library:
    return library_of(request.config)


@pytest.fixture(scope="session")
def guarded(
    request: pytest.FixtureRequest, library: Library, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Library]:
    """The library in a process where every buffer ends at a page that nobody may touch."""
    options = request.config.getoption
    if options("--native-flags", "") or options("--native-server", ""):
        yield library  # a sanitizer looks, or it is such a process already
        return
    server = compile_server(find_compiler(), tmp_path_factory.mktemp("guarded"))
    served = RemoteLibrary([str(server), str(library_here())])
    yield served
    served.close()


@pytest.fixture(scope="session")
def guarded_engine(request: pytest.FixtureRequest, guarded: Library) -> Iterator[Engine]:
    made = Engine(guarded, 2, request.param)
    yield made
    made.close()


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest, library: Library) -> Iterator[Engine]:
    made = Engine(library, 2, request.param)
    yield made
    made.close()
