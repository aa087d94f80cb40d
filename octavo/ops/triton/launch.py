"""What all kernels share: early start (programmatic dependent launch), prefetching, small helpers.

A kernel launched with `launch_pdl=True` may begin while the one before it in the stream still
runs. It says `start_next()` first, may then read what no kernel of the step writes (weights),
and says `wait()` before it touches anything else. Every kernel launched that way must wait, in one
program at least, even if it needs nothing of its predecessor: completion is passed on from kernel to
kernel. A kernel launched without the flag starts after all before it, as usual.

That a kernel has begun says nothing of those before it: its predecessor may still wait for another that
waits for another. Before its wait it can trust only what was complete at a gate: a kernel that says
`start_next()` after its own `wait()`, so that all that follow begin when its predecessors are done. One
stands at the beginning of every step, the angles (rope.py), behind the inputs' lay-out; any launch without
the flag is one, too, for what lies before it. Past a gate a kernel may read, before its wait, the step's
inputs and what earlier steps left (old keys and values) where no kernel since has written, and past L1
(`cache_modifier=".cg"`), whose lines may be older.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


def interpreted() -> bool:
    """Kernels run in Triton's interpreter, on the host."""
    return bool(triton.knobs.runtime.interpret)


def early(x: Tensor) -> bool:
    """Whether kernels on x's device may start before their predecessor ends: Hopper and later."""
    return x.is_cuda and _capability(x.device) >= 9


@cache
def _capability(device: torch.device) -> int:
    return torch.cuda.get_device_capability(device)[0]


def gluon_known(device: torch.device) -> bool:
    """Whether kernels in gluon run on the device: on Hopper, and with the triton they were written for,
    since gluon changes between releases."""
    return device.type == "cuda" and triton.__version__.startswith("3.6.") and _capability(device) == 9


@triton.jit
def start_next(EARLY: tl.constexpr):
    """Lets the next kernel begin as soon as every program of this one has begun."""
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def wait(EARLY: tl.constexpr):
    """From here on everything the kernels before have written is visible."""
    if EARLY:
        gdc_wait()


@triton.jit
def prefetch(pointers, EARLY: tl.constexpr):
    """Asks for the cache lines of a block of pointers in L2, without waiting for them."""
    if EARLY:
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
            "=r,l",
            [pointers.to(tl.int64)],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@triton.jit
def announce(REAL: tl.constexpr):
    """All threads' stores come before whatever one thread of the program tells other programs next.

    As `tl.debug_barrier()` with a fence, but loops around it still get pipelined. Not REAL: in
    the interpreter, where programs run one after the other.
    """
    if REAL:
        tl.inline_asm_elementwise(
            "fence.acq_rel.gpu; bar.sync 0; mov.u32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
        )


@triton.jit
def activate(gate, up, ACT: tl.constexpr):
    """act(gate) * up in float32."""
    if ACT == "silu":
        out = gate / (1.0 + tl.exp(-gate))
    elif ACT == "gelu":
        out = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:
        tl.static_assert(ACT == "gelu_tanh", "unknown activation")
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        # = gate * (1 + tanh(inner)) / 2; below -40 as good as zero
        out = gate / (1.0 + tl.exp(-2.0 * tl.maximum(inner, -40.0)))
    return out * up
