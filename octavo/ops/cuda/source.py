"""The text of a kernel as the compiler gets it: what Hopper offers by name, one product of the tensor cores'
at the width asked for, and the kernel."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent


@cache
def source(name: str, width: int, half: bool) -> str:
    """Of `name`.cu, whose tiles are `width` weight rows wide; float16 where `half`, else bfloat16."""
    hopper = (_HERE / "hopper.cuh").read_text()
    return "\n".join((hopper, _product(width, half), (_HERE / f"{name}.cu").read_text()))


def _product(width: int, half: bool) -> str:
    """sums [64, width] (+)= a [64, 16] @ b [width, 16].T, by four warps: thread t of warp w holds
    rows 16 w + t / 4 and eight further, columns 2 (t % 4) and the next of each eight."""
    count = width // 2
    sums = ", ".join(f"%{i}" for i in range(count))
    places = ", ".join(f'"+f"(sums[{i}])' for i in range(count))
    kind = "f16" if half else "bf16"
    return f"""
__device__ inline void product(float (&sums)[{count}], u64 a, u64 b, int add) {{
    asm volatile(
        "{{\\n.reg .pred add;\\nsetp.ne.b32 add, %{count + 2}, 0;\\n"
        "wgmma.mma_async.sync.aligned.m64n{width}k16.f32.{kind}.{kind} {{{sums}}}, %{count}, %{count + 1},"
        " add, 1, 1, 0, 0;\\n}}\\n"
        : {places}
        : "l"(a), "l"(b), "r"(add));
}}
"""
