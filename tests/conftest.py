"""Fixtures that several suites share; the expensive ones exist once a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from octavo.config import env
from octavo.config.model import ModelConfig
from octavo.core.facts import ModelFiles
from tests.serving import DEFAULT_PORT, Server, serve

env.calm_threads()  # before any test loads torch
if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is loaded, which other tests do before its own


@pytest.fixture(scope="session")
def default_model() -> ModelFiles:
    """The default model's files, fetched once."""
    from octavo.checkpoint.find import locate

    return locate(ModelConfig())


@pytest.fixture(scope="session")
def server(default_model: ModelFiles) -> Iterator[Server]:
    """The default model behind real sockets with a core of its own, on port 8000 if that is free."""
    with serve(port=DEFAULT_PORT) as running:
        yield running
