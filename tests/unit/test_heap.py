"""What is freed goes back to the system, holes in the heap included; loading is swept once."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from octavo.core import heap

CODE = """
import psutil
from octavo.core import heap

def resident():
    return psutil.Process().memory_info().rss >> 20

heap.keep_small()
small = [bytes(3000) for _ in range(20_000)]
large = bytearray(b"x" * (8 << 20))
full = resident()
del large
assert resident() < full - 6, "a large buffer goes back at once"
small = small[::100]  # each of the others leaves a hole between those that stay
holes = resident()
heap.give_back()
print(full, holes, resident())
assert resident() < holes - 30
"""


def test_memory_goes_back():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


class Knot:
    """Garbage that only a sweep finds."""

    def __init__(self) -> None:
        self.itself = self


def test_loading_is_swept_once_after_it_even_if_it_fails():
    with pytest.raises(ValueError, match="unreadable"), heap.swept_once():
        assert not gc.isenabled()
        knots = [Knot() for _ in range(2 * heap._MANY)]
        gone = weakref.ref(knots.pop())
        assert gone()
        raise ValueError("unreadable")
    assert gc.isenabled() and not gone()


def test_a_program_that_sweeps_on_its_own_goes_on_doing_so():
    gc.disable()
    try:
        with heap.swept_once():
            gone = weakref.ref(Knot())
        assert not gc.isenabled() and gone()
    finally:
        gc.enable()
