"""What is freed goes back to the system, holes in the heap included."""

from __future__ import annotations

import subprocess
import sys

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
