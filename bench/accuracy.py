"""What each way of keeping weights on a CPU costs in accuracy, and what it takes.

    python -m bench.accuracy [--model FILE.gguf] [--text FILE] [--windows N] [--dither] [--out FILE]

Every way reads the same windows of a text (CPython's own documentation, as installed) and is compared
with float32: perplexity, how often the most likely token is the same, and the logits' relative error.
`--dither` first spreads each weight evenly within the step its file rounds it to, which gives a model of
continuous weights, as unquantised checkpoints have, of nearly the same quality. Times are of one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.record import provenance, write
from octavo.checkpoint.gguf import GGUFCheckpoint
from octavo.models.native import NativeDecoder
from octavo.models.packed import Storage
from octavo.models.registry import MODELS
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.nn.protocols import CacheSpec
from octavo.ops.cpu.find import find_library
from octavo.ops.cpu.lib import Engine
from octavo.text.tokenizer import Tokenizer

PAGE, WINDOW = 16, 512
WAYS = {
    "float32": Storage(torch.float32, blocks=False),
    "bfloat16": Storage(blocks=False),
    "int8, a scale a block": Storage(blocks=False, int8=True),
    "int8, a scale a block, no head": Storage(blocks=False, int8=True, head=False),
    "int8, a scale a row": Storage(blocks=False, int8=True, eight="INT8"),
    "int8, a scale a row, no head": Storage(blocks=False, int8=True, eight="INT8", head=False),
    "the file's blocks": Storage(),
}
_STEPS = {"Q4_0": 16, "Q4_1": 16}  # codes of a block


class Dithered(GGUFCheckpoint):
    """Weights moved by up to half a step of their block, the same in every reading."""

    def read(self, name: str, into: Tensor) -> None:
        if self.index[name].dtype not in _STEPS:
            super().read(name, into)
            return
        wide = torch.empty(into.shape)
        super().read(name, wide)
        blocks = wide.view(-1, 32)
        step = (blocks.amax(1) - blocks.amin(1)) / (_STEPS[self.index[name].dtype] - 1)
        draw = torch.Generator().manual_seed(sum(name.encode()))
        blocks += (torch.rand(blocks.shape, generator=draw) - 0.5) * step[:, None]
        into.copy_(wide)


class Seen(NamedTuple):
    """Of one window: logits [n, vocab] of all positions."""

    logits: Tensor
    seconds: float


class Reader:
    """One way of keeping the weights, and a cache of its own."""

    def __init__(self, checkpoint: GGUFCheckpoint, engine: Engine, storage: Storage) -> None:
        library = find_library()
        assert not isinstance(library, str), library
        spec = MODELS.get(checkpoint.hf.architecture).read(checkpoint.hf)
        specs = tuple(
            CacheSpec(f"model.layers.{i}.self_attn", spec.kv_heads, spec.head_dim) for i in range(spec.layers)
        )
        cache = torch.float32 if storage.dtype == torch.float32 else torch.bfloat16
        self.model = NativeDecoder(
            spec, specs, checkpoint, library, engine, page=PAGE, cache=cache, storage=storage
        )
        shape = (WINDOW // PAGE + 1, 2, spec.kv_heads, PAGE, spec.head_dim)
        self._caches = {s.name: torch.zeros(shape, dtype=cache) for s in specs}

    def read(self, ids: Tensor, start: int = 0) -> Seen:
        positions = torch.arange(start, start + len(ids))
        tables = (1 + torch.arange(WINDOW // PAGE)).int().view(1, -1)
        group = GroupInputs(torch.tensor([start + len(ids)], dtype=torch.int32), tables, positions + PAGE)
        f = Forward(
            ids, positions, torch.tensor([0, len(ids)], dtype=torch.int32), torch.tensor([len(ids) - 1]),
            (group,), self._caches, HostBounds(1, len(ids), len(ids), start + len(ids)),
        )  # fmt: skip
        began = time.thread_time()
        hidden = self.model.forward(f)
        seconds = time.thread_time() - began
        return Seen(self.model.logits(hidden), seconds)

    def decode(self, ids: Tensor) -> float:
        """CPU seconds of one token behind 128."""
        began = time.thread_time()
        for _ in range(10):
            hidden = self.model.forward(self._one(ids))
            self.model.logits(hidden)
        return (time.thread_time() - began) / 10

    def _one(self, ids: Tensor) -> Forward:
        tables = (1 + torch.arange(WINDOW // PAGE)).int().view(1, -1)
        at = torch.tensor([128])
        group = GroupInputs(torch.tensor([129], dtype=torch.int32), tables, at + PAGE)
        return Forward(
            ids[128:129], at, torch.tensor([0, 1], dtype=torch.int32), torch.tensor([0]), (group,),
            self._caches, HostBounds(1, 1, 1, 129),
        )  # fmt: skip


class Score:
    """What one way sums up to, against the reference's logits."""

    def __init__(self) -> None:
        self.loss = self.same = self.error = self.size = 0.0
        self.positions, self.prefill, self.decode = 0, [0.0], [0.0]

    def add(self, seen: Seen, reference: Seen, ids: Tensor) -> None:
        got, want = seen.logits[:-1], reference.logits[:-1]
        self.loss += float(torch.nn.functional.cross_entropy(got, ids[1:], reduction="sum"))
        self.same += int((got.argmax(1) == want.argmax(1)).sum())
        centred = want - want.mean(1, keepdim=True)
        self.error += float(((got - got.mean(1, keepdim=True)) - centred).square().sum())
        self.size += float(centred.square().sum())
        self.positions += len(ids) - 1
        self.prefill.append(seen.seconds)

    def report(self, nbytes: int) -> dict[str, Any]:
        middle = lambda times: sorted(times[1:])[len(times[1:]) // 2]  # noqa: E731
        return {
            "perplexity": round(math.exp(self.loss / self.positions), 4),
            "same first choice": round(self.same / self.positions, 4),
            "logit error": round(math.sqrt(self.error / self.size), 5),
            "MB": round(nbytes / 1e6, 1),
            "prefill tokens/s": round(WINDOW / middle(self.prefill), 1),
            "decode tokens/s": round(1 / middle(self.decode), 1),
        }


def texts(path: Path | None) -> str:
    if path is not None:
        return path.read_text(encoding="utf-8")
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def measure(readers: dict[str, Reader], ids: Tensor, sizes: dict[str, int]) -> dict[str, Any]:
    """All ways take turns at every window, so that a busy neighbour meets them alike."""
    scores = {name: Score() for name in readers}
    for window in ids:
        reference = readers["float32"].read(window)
        for name, reader in readers.items():
            scores[name].add(reader.read(window), reference, window)
            scores[name].decode.append(reader.decode(window))
    return {name: score.report(sizes[name]) for name, score in scores.items()}


def main() -> None:
    from octavo.checkpoint.find import locate
    from octavo.config.model import ModelConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="a GGUF file (default: the default model)")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--dither", action="store_true")
    parser.add_argument("--level")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    [path] = locate(ModelConfig(model=asked.model)).weights
    library = find_library()
    assert not isinstance(library, str), library
    torch.set_num_threads(1)
    engine = Engine(library, 1, asked.level)
    checkpoint = Dithered(path) if asked.dither else GGUFCheckpoint(path)
    ids = torch.tensor(Tokenizer.from_gguf(path).encode(texts(asked.text)))
    step = max(WINDOW, len(ids) // asked.windows)
    starts = range(0, len(ids) - WINDOW, step)[: asked.windows]
    windows = torch.stack([ids[at : at + WINDOW] for at in starts])
    ways = {name: way for name, way in WAYS.items() if not (asked.dither and way.blocks)}
    with torch.inference_mode():
        readers = {name: Reader(checkpoint, engine, way) for name, way in ways.items()}
        sizes = {name: _bytes(reader, ways[name], checkpoint) for name, reader in readers.items()}
        found = measure(readers, windows, sizes)
    positions = windows.numel() - len(windows)
    result = {**provenance(), "level": engine.level, "positions": positions, "ways": found}
    if asked.out:
        write(asked.out, result)
    print(json.dumps(result, indent=1))


def _bytes(reader: Reader, storage: Storage, checkpoint: GGUFCheckpoint) -> int:
    from octavo.models.packed import weight_bytes

    library = find_library()
    assert not isinstance(library, str)
    return weight_bytes(library, reader.model.spec, checkpoint.index, storage)


if __name__ == "__main__":
    main()
