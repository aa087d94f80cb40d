"""Against whom the rules are tried: a server of this tree, or any other on this machine:

    pytest tests/security --url http://127.0.0.1:9000 --api-key KEY [--api-key OTHER_TENANTS_KEY]

Tests marked `this_tree` look into our source or processes; with --url they are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.target import Target
from tests.serving import serve

KEYS = ("key-of-the-first-tenant", "key-of-the-second-tenant")
FLAGS = ("--dtype", "float32", "--max-model-len", "512", "--disable-uvicorn-access-log")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("security")
    group.addoption("--url", help="server the security rules are tried on, instead of one of this tree")
    group.addoption("--api-key", action="append", default=[], help="valid key of that server; repeatable")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--url", None):
        ours = [item for item in items if item.get_closest_marker("this_tree")]
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    url = request.config.getoption("--url", None)
    if url:
        made = Target(url, tuple(request.config.getoption("--api-key")))
        yield made
        made.close()
        return
    request.getfixturevalue("default_model")
    with serve(*FLAGS, "--api-key", ",".join(KEYS)) as server:
        made = Target(server.url, KEYS, server)
        yield made
        made.close()
