"""Whether a model runs on the native library, what that takes, and loading it so.

Knows the order of questions; the library, the decoder and the backend know the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from octavo.attention.native import NativeAttention
from octavo.config.resolve import Resolved
from octavo.core.facts import Decision, Platform
from octavo.models.blocks import DecoderSpec
from octavo.models.native import NativeDecoder, refused
from octavo.models.packed import Storage, weight_bytes
from octavo.models.registry import MODELS, Survey
from octavo.nn.protocols import DTYPES, Checkpoint
from octavo.ops.cpu.find import find_library
from octavo.ops.cpu.lib import Engine, Library

# Products with a file's own blocks round activations to 8 bits. That costs a small model the most
# (a near tie between two answers flips) and saves it the least.
_SMALL = 1 << 30  # bytes of weights in the model's dtype


class NativePlan(NamedTuple):
    """A model the library can run, before anything of it is loaded."""

    library: Library
    engine: Engine
    spec: DecoderSpec
    needs: Survey  # with the bytes of the packed weights
    storage: Storage
    backend: NativeAttention
    page: int
    cache: torch.dtype

    def load(self, checkpoint: Checkpoint, progress: Callable[[float], None]) -> NativeDecoder:
        return NativeDecoder(
            self.spec, self.needs.specs, checkpoint, self.library, self.engine,
            page=self.page, cache=self.cache, storage=self.storage, progress=progress,
        )  # fmt: skip


def plan_native(
    resolved: Resolved,
    checkpoint: Checkpoint,
    needs: Survey,
    platform: Platform,
    threads: int,
    *,
    exact: bool,
) -> tuple[NativePlan | None, Decision]:
    """`exact`: matrices keep the precision of resolved.dtype even where the file has blocks.

    Without a plan the Decision says why the model runs on torch.
    """
    kind, cache, page = MODELS.get(checkpoint.hf.architecture), DTYPES[resolved.kv_dtype], resolved.block_size
    spec = kind.read(checkpoint.hf)
    if platform.kind != "cpu":
        return None, Decision("kernels", "torch", f"the native library is for CPUs, not {platform.kind}")
    if why := refused(kind, spec, cache, page):
        return None, Decision("kernels", "torch", f"native: {why}")
    library = find_library()
    if isinstance(library, str):
        return None, Decision("kernels", "torch", f"native: {library}")
    engine = Engine(library, threads)
    blocks = not exact and needs.weight_bytes > _SMALL
    storage = Storage(torch.float32 if resolved.dtype == "float32" else torch.bfloat16, blocks=blocks)
    needs = needs._replace(weight_bytes=weight_bytes(library, spec, checkpoint.index, storage))
    stored = storage.format(
        checkpoint.index["model.layers.0.mlp.down_proj.weight"].dtype if checkpoint.index else ""
    )
    why = f"{threads} threads, layers stored as {stored}"
    plan = NativePlan(
        library, engine, spec, needs, storage, NativeAttention(engine, cache, page), page, cache
    )
    return plan, Decision("kernels", f"native {engine.level}", why)
