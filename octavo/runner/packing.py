"""Weights of the native library: from the cache of packed files, or packed now and kept there.

Decides whose pages they are and says why. Knows no model.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from octavo.checkpoint.packs import Mapped, Pack, PackStore, as_buffer, pack_key, rounded
from octavo.config import env
from octavo.config.cpu import CPUConfig
from octavo.core.facts import Decision, ModelFiles
from octavo.models.packed import Places, Weights
from octavo.ops.cpu.lib import Engine, Library, Memory

_LEAST = 16 << 20  # bytes; smaller models are packed faster than a file is found
_FIELD = "weight_pages"


class Packing(NamedTuple):
    """`refused`: why the packed weights are not kept on disk, or None."""

    places: Places
    store: PackStore
    pack: Pack
    pages: str  # "auto" | "shared" | "private"
    threads: int
    refused: str | None

    @classmethod
    def of(
        cls,
        config: CPUConfig,
        files: ModelFiles,
        places: Places,
        library: Library,
        engine: Engine,
        threads: int,
    ) -> Packing:
        store = PackStore(env.packed_weights(), config.weight_cache_bytes)
        key = pack_key((library.name, engine.level, files.identity, *_sources(files), *places.words))
        pack = Pack(files.name, key, rounded(places.nbytes))
        refused = _refused(config, files, pack) or store.refused(pack.nbytes)
        return cls(places, store, pack, config.weight_pages, threads, refused)

    def expected(self) -> Decision:
        """What a start would do, before it does."""
        if self.refused:
            return self._new()
        there = self.store.holds(self.pack)
        why = f"{self.pack.file} is there" if there else "packed at the next start, and kept"
        return Decision(_FIELD, self.pages, why)

    def find(self) -> tuple[Weights, Decision]:
        """Filled where there is a file of them, otherwise empty."""
        held = None if self.refused else self.store.open(self.pack, self.threads)
        if held is not None:
            return self._filled(held)
        return Weights(self.places, _private(self.pack.nbytes)), self._new()

    def _new(self) -> Decision:
        if self.refused:
            return Decision(_FIELD, "private", f"packed at every start: {self.refused}")
        return Decision(_FIELD, "private", "packed now, and kept for the next start")

    def keep(self, weights: Weights) -> tuple[Weights, Decision] | None:
        """Once they are filled. Where pages must be shared: those that are, to be used instead."""
        if self.refused:
            return None
        writer = self.store.keep(self.pack, weights.data.numpy())
        if self.pages != "shared":
            return None
        writer.join()
        held = self.store.open(self.pack, self.threads)
        return None if held is None else self._filled(held)

    def _filled(self, held: Mapped) -> tuple[Weights, Decision]:
        mapped = torch.frombuffer(as_buffer(held.array), dtype=torch.uint8)
        if self.pages == "shared" or (self.pages == "auto" and held.huge):
            small = "" if held.huge else ", in small pages"
            why = f"one copy of {self.pack.file} for all processes{small}"
            return Weights(self.places, mapped, filled=True), Decision(_FIELD, "shared", why)
        data = _private(self.pack.nbytes).copy_(mapped)
        asked = "asked for" if self.pages == "private" else "mapping the file would give small pages"
        return Weights(self.places, data, filled=True), Decision(_FIELD, "private", f"huge pages; {asked}")


def _private(nbytes: int) -> Tensor:
    return Memory().take(nbytes)


def _refused(config: CPUConfig, files: ModelFiles, pack: Pack) -> str | None:
    if config.weight_cache_bytes == 0:
        return "--weight-cache-bytes 0"
    if files.format == "dummy" or not files.weights:
        return "random weights"
    return f"under {_LEAST >> 20} MiB" if pack.nbytes < _LEAST else None


def _sources(files: ModelFiles) -> list[str]:
    """Size and time of each file of weights: a file that was replaced has others."""
    found = [Path(path).stat() for path in files.weights]
    return [f"{stat.st_size} {stat.st_mtime_ns}" for stat in found]
