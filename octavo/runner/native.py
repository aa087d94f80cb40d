"""Whether a model runs on the native library, what that takes, and loading it so.

Knows the order of questions; the library, the decoder and the backend know the answers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from octavo.attention.native import NativeAttention
from octavo.config.cpu import CPUConfig
from octavo.config.engine import EngineConfig
from octavo.config.model import ModelConfig
from octavo.config.resolve import Resolved
from octavo.core.errors import Unsupported, UserError
from octavo.core.facts import NO_EFFECT, Decision, ModelFiles, Platform, TensorInfo
from octavo.models.blocks import DecoderSpec
from octavo.models.native import NativeDecoder, refused
from octavo.models.packed import BLOCKS, Storage, Weights, all_runs, places, weight_bytes
from octavo.models.registry import MODELS, Survey
from octavo.nn.protocols import DTYPES, Checkpoint
from octavo.ops.cpu.find import find_library
from octavo.ops.cpu.lib import Engine, Library
from octavo.platform.cpu import cores_of
from octavo.runner.packing import Packing

_log = logging.getLogger(__name__)
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
    packing: Packing

    def load(
        self, checkpoint: Checkpoint, progress: Callable[[float], None]
    ) -> tuple[NativeDecoder, Decision]:
        """The model, and whose pages its weights are in."""
        weights, told = self.packing.find()
        model = self._build(checkpoint, weights, progress)
        if not weights.filled and (shared := self.packing.keep(weights)) is not None:
            weights, told = shared
            model = self._build(checkpoint, weights, progress)
        return model, told

    def _build(
        self, checkpoint: Checkpoint, weights: Weights, progress: Callable[[float], None]
    ) -> NativeDecoder:
        return NativeDecoder(
            self.spec, self.needs.specs, checkpoint, self.library, self.engine,
            page=self.page, cache=self.cache, storage=self.storage, weights=weights, progress=progress,
        )  # fmt: skip


def check_cache(resolved: Resolved, native: NativePlan | None, kernels: tuple[Decision, ...]) -> None:
    """UserError where the cache asked for is one that only the library has."""
    if native is None and resolved.kv_dtype == "int8":
        raise UserError(
            f"kv_cache_dtype int8 needs the native kernels, and the model runs on torch ({kernels[0].why})",
            hint="use auto, float32, bfloat16 or float16",
            field="kv_cache_dtype",
        )


def plan_native(
    config: EngineConfig,
    resolved: Resolved,
    files: ModelFiles,
    checkpoint: Checkpoint,
    needs: Survey,
    platform: Platform,
    threads: int,
) -> tuple[NativePlan | None, tuple[Decision, ...]]:
    """Without a plan the first Decision says why the model runs on torch.

    UserError where the settings ask for what only the library has, or for what it has not.
    """
    kind, cache, page = MODELS.get(checkpoint.hf.architecture), DTYPES[resolved.kv_dtype], resolved.block_size
    spec = kind.read(checkpoint.hf)
    if platform.kind != "cpu":
        why = f"the native library is for CPUs, not {platform.kind}"
        return None, (Decision("kernels", "torch", why), *_on_torch(config, why))
    asked = config.model.attention_backend
    if asked != "auto":
        why = f"attention_backend {asked} was asked for, which is not the library's"
        return None, (Decision("kernels", "torch", why), *_on_torch(config, why))
    if shape := refused(kind, spec, cache, page):
        return None, (Decision("kernels", "torch", f"native: {shape}"), *_on_torch(config, shape))
    library = find_library()
    if isinstance(library, str):
        _log.warning("the model runs on torch, several times slower than on native kernels: %s", library)
        return None, (Decision("kernels", "torch", f"native: {library}"), *_on_torch(config, library))
    pins = cores_of(threads) if config.cpu.cpu_pin else ()
    engine = _engine(library, threads, config.cpu, pins)
    storage, why = choose_storage(config.model, resolved.dtype, checkpoint.index, needs.weight_bytes)
    needs = needs._replace(weight_bytes=weight_bytes(library, spec, checkpoint.index, storage))
    packing = Packing.of(
        config.cpu, files, places(library, spec, checkpoint.index, storage), library, engine, threads
    )
    plan = NativePlan(
        library, engine, spec, needs, storage, NativeAttention(engine, cache, page), page, cache, packing
    )
    asked = "as asked" if config.cpu.cpu_level else "the best this CPU has"
    return plan, (
        Decision("kernels", f"native {engine.level}", asked),
        *([_pinned(pins)] if config.cpu.cpu_pin else []),
        Decision("weights", _formats(library, spec, checkpoint.index, storage), why),
        packing.expected(),
    )


def choose_storage(
    config: ModelConfig, dtype: str, index: Mapping[str, TensorInfo], wide_bytes: int
) -> tuple[Storage, str]:
    """How matrices are kept, and why. `wide_bytes`: what they would take in dtype."""
    wide = torch.float32 if dtype == "float32" else torch.bfloat16
    if config.quantization == "int8":
        return Storage(wide, int8=True), "quantization: what has more than 8 bits is rounded while it is read"
    if config.quantization == "gguf":
        return Storage(wide), "quantization: the file's own blocks"
    if not any(info.dtype in BLOCKS for info in index.values()):
        return Storage(wide, blocks=False), "the model's dtype"
    if config.dtype != "auto":
        return Storage(wide, blocks=False), "dtype was given; --quantization gguf keeps the file's blocks"
    if wide_bytes > _SMALL:
        return Storage(wide), "the file's own blocks, since in the model's dtype they would take over 1 GiB"
    return Storage(wide, blocks=False), (
        "a small model is more exact so; --quantization gguf keeps the file's blocks, which is faster"
    )


def _formats(library: Library, spec: DecoderSpec, index: Mapping[str, TensorInfo], storage: Storage) -> str:
    """What most bytes are kept in comes first."""
    sizes = Counter[str]()
    for run in all_runs(spec, index, storage):
        sizes[run.format] += library.packed_bytes(run.format, run.rows, run.k)
    return ", ".join(format for format, _ in sizes.most_common())


def _engine(library: Library, threads: int, config: CPUConfig, pins: Sequence[int]) -> Engine:
    if config.cpu_level and config.cpu_level not in library.levels:
        raise UserError(
            f"cpu_level {config.cpu_level!r:.40} is not there on this CPU",
            hint=f"use one of {', '.join(library.levels)}, or leave it out for {library.level}",
            field="cpu_level",
        )
    return Engine(library, threads, config.cpu_level, pins or None)


def _pinned(pins: Sequence[int]) -> Decision:
    if not pins:
        return Decision("cpu_pin", NO_EFFECT, "this system does not let a process choose its cores")
    if len(pins) == 1:
        return Decision(
            "cpu_pin", NO_EFFECT, "the only thread runs Python, too, and goes where there is room"
        )
    return Decision(
        "cpu_pin", f"cores {', '.join(map(str, pins[1:]))}", "as asked; the thread that runs Python is free"
    )


def _on_torch(config: EngineConfig, why: str) -> list[Decision]:
    """What settings of the library come to without it."""
    if config.model.quantization == "int8":
        raise Unsupported(
            f"quantization='int8' needs the native kernels: {why}",
            hint="leave quantization out, or mend what keeps them from running",
            field="quantization",
        )
    idle = []
    if config.model.quantization == "gguf":
        idle.append(("quantization", f"the file's blocks are widened to the model's dtype: {why}"))
    if config.cpu.cpu_level is not None:
        idle.append(("cpu_level", why))
    if config.cpu.cpu_pin:
        idle.append(("cpu_pin", why))
    return [Decision(field, NO_EFFECT, reason) for field, reason in idle]
