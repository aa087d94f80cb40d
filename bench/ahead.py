"""Compiles a kernel for sm_90 where there is no GPU: registers, spills, shared memory, what loads it uses."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

NAMES = {"f32": "*fp32", "bf16": "*bf16", "f16": "*fp16", "f8": "*fp8e4nv", "i32": "*i32", "i64": "*i64"}


def ahead(kernel: Any, args: dict[str, Any], **options: Any) -> dict[str, Any]:
    """args: pointers as "bf16", ints as "int" (multiples of 16) or "odd", "float", None, constexprs."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, p in enumerate(kernel.params):
        value = args[p.name]
        if p.is_constexpr or value is None:
            signature[p.name], constants[(i,)] = "constexpr", value
        elif isinstance(value, str) and value.startswith("tensordesc"):
            signature[p.name] = value
        elif value in NAMES:
            signature[p.name], attributes[(i,)] = NAMES[value], [["tt.divisibility", 16]]
        elif value in ("int", "odd"):
            signature[p.name] = "i32"
            if value == "int":
                attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[p.name] = "fp32"
    source = ASTSource(kernel, signature, constants, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return {"shared": made.metadata.shared, **assemble(made.asm["ptx"]), "ptx": made.asm["ptx"]}


def assemble(ptx: str) -> dict[str, Any]:
    """ptxas's own words on registers and spills, and counts of the instructions that matter."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx)
        to = str(path.with_suffix(".cubin"))
        command = [triton.knobs.nvidia.ptxas.path, "-v", "-arch=sm_90a", str(path), "-o", to]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = {name: int(m[1]) if (m := re.search(p, said)) else -1 for name, p in _SAID.items()}
    counts = {name: len(re.findall(p, ptx)) for name, p in _SEEN.items()}
    return {**found, **{k: v for k, v in counts.items() if v}}


_SAID = {"registers": r"Used (\d+) registers", "spills": r"(\d+) bytes spill stores"}
_SEEN = {
    "ld16": r"ld\.global[.\w:]*\.v4\.b32",
    "cp.async": r"cp\.async\.cg",
    "tma": r"cp\.async\.bulk\.tensor",
    "wgmma": r"wgmma\.mma_async",
    "mma": r"mma\.sync",
    "cvt8": r"cvt\.rn\.f16x2\.e4m3x2",
    "gdc": r"griddepcontrol",
}
