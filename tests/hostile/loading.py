"""A mutant, taken as far as it goes: start a device with it, native packing and a step included."""

from __future__ import annotations

import contextlib
import json
import resource
from collections import Counter
from pathlib import Path
from random import Random
from unittest import mock

from octavo.config.engine import EngineConfig, owners
from octavo.core.errors import EngineError
from octavo.core.facts import ModelFiles
from octavo.runner import native
from octavo.runner.start import start
from tests.hostile.models import sound_gguf, sound_safetensors, write_gguf, write_safetensors
from tests.hostile.mutations import break_gguf, break_safetensors

SETTINGS = {"kv_cache_memory_bytes": "2MiB", "max_num_seqs": 2, "max_num_batched_tokens": 64}
if "weight_cache_bytes" in owners():
    SETTINGS["weight_cache_bytes"] = 0  # ten thousand models are not worth keeping
ROOM = 1 << 30  # bytes a process may take beyond what it begins with


def hold_to(room: int) -> None:
    """From now on this process gets at most `room` bytes more: whoever asks for too much fails."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + room
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def outcome(files: ModelFiles, *, blocks: bool) -> str:
    """"loaded", or the type of the error that said why not. Anything else is raised.

    `blocks`: the file's own blocks are packed, which small models otherwise are not.
    """
    config = EngineConfig.from_flat({"model": files.root, **SETTINGS})
    with contextlib.ExitStack() as stack:
        if blocks:
            stack.enter_context(mock.patch.object(native, "_SMALL", 0))
        try:
            device, _ = start(config, files, lambda stage, share: None)
        except EngineError as error:
            assert error.message and error.hint, f"no remedy: {error.message}"
            return type(error).__name__
        device.close()
        return "loaded"


class Fuzz:
    """Mutants by seed: the same number is always the same file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._gguf, self._safetensors = sound_gguf(), sound_safetensors()

    def files(self, seed: int) -> ModelFiles:
        r = Random(seed)
        if r.random() < 0.65:
            return write_gguf(self._folder, break_gguf(self._gguf, r))
        return write_safetensors(self._folder, *break_safetensors(self._safetensors, r))

    def run(self, seed: int) -> str:
        files = self.files(seed)
        return f"{files.format} {outcome(files, blocks=seed % 4 > 0)}"

    def sound(self) -> None:
        """What the mutants come from does load."""
        assert outcome(write_gguf(self._folder, self._gguf.data()), blocks=True) == "loaded"
        model = self._safetensors
        files = write_safetensors(self._folder, json.dumps(model.config).encode(), model.data())
        assert outcome(files, blocks=True) == "loaded"


def run_seeds(first: int, count: int, folder: Path) -> Counter[str]:
    """What became of each. AssertionError names the first seed that ended otherwise."""
    fuzz, total = Fuzz(folder), Counter[str]()
    for seed in range(first, first + count):
        try:
            total[fuzz.run(seed)] += 1
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return total
