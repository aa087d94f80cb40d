"""A team of threads where the cores do not suffice: who waits must let the others run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from octavo.ops.cpu.lib import Engine, Library, linear
from tests.cpu.native.tiles import library_here
from tests.cpu.native.tools import packed


@pytest.fixture
def one_core() -> Iterator[int]:
    """This thread, and those it starts, have no other."""
    usable = os.sched_getaffinity(0)
    core = min(usable)
    os.sched_setaffinity(0, {core})
    yield core
    os.sched_setaffinity(0, usable)


@pytest.mark.parametrize("threads", [2, 3, 7])
@pytest.mark.parametrize("pinned", [False, True])
def test_threads_on_one_core_change_no_bits(one_core: int, threads: int, pinned: bool) -> None:
    library = Library(library_here())
    alone, crowd = (
        Engine(library, 1),
        Engine(library, threads, cpus=(one_core,) * threads if pinned else None),
    )
    x = torch.randn(21, 576)
    weight, _ = packed(library, crowd, "Q8_0", 96, 576)
    for _ in range(50):
        assert torch.equal(linear(crowd, x, weight), linear(alone, x, weight))
    for engine in (alone, crowd):
        engine.close()
