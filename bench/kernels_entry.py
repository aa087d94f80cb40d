"""Entry and attention of few rows that decode, on a GPU: two launches against one, among their neighbours.

`python bench/kernels_entry.py [--only check,compile,steps,time] [--cells 8B:1x128,0.6B:8x384] [--out FILE]`
prints tables and writes JSON (to $OUT/kernels_entry.json where OUT is set). Times are microseconds a layer
within a captured graph of layers, each with its qkv product before and its output product after, less those
of the products alone. Results go to ops/triton/attention_tune.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from bench.attention_step import BANDWIDTH, BF16, LLAMA, QWEN, Step, processors, timed, workers
from bench.record import provenance, write
from octavo.ops.rope import rope_angles
from octavo.ops.triton.attention_decode import Workspace
from octavo.ops.triton.attention_direct import decode_few, programs_for
from octavo.ops.triton.attention_entry import Entry, EntryConfig, enter_few
from octavo.ops.triton.attention_tune import direct_config, entry_config
from octavo.ops.triton.enter import entered
from octavo.ops.triton.matmul import Terms, multiply, reserve

LAYERS, LAUNCHES = 8, 24
EPS = 1e-5


class Model(NamedTuple):
    shape: tuple[int, int]  # heads, key heads
    hidden: int
    norm: bool  # of queries and keys


MODELS = {"8B": Model(LLAMA, 4096, False), "0.6B": Model(QWEN, 1024, True)}
CELLS = [("8B", rows, context) for context in (128, 384, 1024, 8192) for rows in (1, 2, 4, 8, 16)]
CELLS += [("0.6B", rows, context) for context in (128, 384, 1024, 8192) for rows in (1, 8)]
CUTS = ((32, 2, None), (32, 4, 128), (64, 4, None), (64, 4, 168), (64, 8, 128), (128, 8, None))
AHEAD = (0, 1, 2)


def candidates() -> Iterator[EntryConfig]:
    for cut, per_sm in ((cut, per_sm) for cut in CUTS for per_sm in (1, 2, 4)):
        yield EntryConfig(*cut, per_sm)


def variations(best: EntryConfig) -> Iterator[EntryConfig]:
    """What is tried around the best cuts only."""
    for ahead in AHEAD:
        for least in (1, 2, 3):
            if (ahead, least) != (best.ahead, best.least):
                yield best._replace(ahead=ahead, least=least)


class Layers:
    """The part of a model's layers that lies around attention, over a random cache."""

    def __init__(self, name: str, rows: int, context: int) -> None:
        self.model = model = MODELS[name]
        self.step = step = Step([(1, context)] * rows, model.shape)
        d, (heads, kv_heads) = step.d, model.shape
        wide = (heads + 2 * kv_heads) * d

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, device="cuda", dtype=BF16)

        many = range(LAYERS)
        self.qkv = [random(wide, model.hidden) * model.hidden**-0.5 for _ in many]
        self.out = [random(model.hidden, heads * d) * (heads * d) ** -0.5 for _ in many]
        self.gain = torch.rand(model.hidden, device="cuda").to(BF16) + 0.5
        self.norms = [torch.rand(d, device="cuda").to(BF16) + 0.5 if model.norm else None for _ in range(2)]
        self.x = random(rows, model.hidden)
        self.inverse = 500000.0 ** -(torch.arange(0, d, 2, device="cuda") / d)
        self.step.out.normal_()
        self.place()

    def place(self) -> None:
        """Angles and slots of the rows' last positions, by torch: one gate (launch.py) a step."""
        s = self.step
        at = (s.lengths - 1).long()
        pages = s.tables.gather(1, (at // s.page)[:, None])[:, 0].long()
        self.slots = pages * s.page + at % s.page
        self.angles = rope_angles.reference(at, self.inverse, 1.0, torch.float32)

    def project(self, layer: int) -> Tensor:
        if len(self.x) == 1:
            return multiply(self.x, self.qkv[layer], Terms(gain=self.gain, eps=EPS))
        return multiply(self.x, self.qkv[layer])

    def layer(self, layer: int, attend: Callable[[Tensor, int], Tensor] | None) -> Tensor:
        qkv = self.project(layer)
        a = self.step.out if attend is None else attend(qkv, layer)
        return multiply(a, self.out[layer], Terms(residual=self.x))

    def two(self) -> Callable[[Tensor, int], Tensor]:
        """As it was: enter, then attention_direct.py."""
        s, config = self.step, direct_config(len(self.x), self.step.d, 2)
        assert config is not None
        cut = programs_for(config.per_sm, len(self.x), s.kv_heads, processors())
        space = Workspace.make(cut[1], len(self.x), s.heads, s.d, self.x.device)

        def attend(qkv: Tensor, layer: int) -> Tensor:
            views = s.views(layer % s.layers)
            out = torch.empty_like(s.out)
            q = entered(qkv, self.angles, *self.norms, EPS, s.heads, s.kv_heads, *views, self.slots)
            decode_few(q, *views, out, s.tables, s.owners, s.lengths, s.row_start, space, config,
                       programs=cut, scale=s.d**-0.5)  # fmt: skip
            return out

        return attend

    def one(self, config: EntryConfig) -> Callable[[Tensor, int], Tensor]:
        s = self.step
        cut = programs_for(config.per_sm, len(self.x), s.kv_heads, processors())
        space = Workspace.make(cut[1], len(self.x), s.heads, s.d, self.x.device)

        def attend(qkv: Tensor, layer: int) -> Tensor:
            out = torch.empty_like(s.out)
            entry = Entry(qkv, self.angles, *self.norms, EPS, s.heads)
            enter_few(entry, *s.views(layer % s.layers), out, s.tables, s.owners, s.lengths, s.row_start,
                      space, config, programs=cut, scale=s.d**-0.5)  # fmt: skip
            return out

        return attend

    def timed(self, attend: Callable[[Tensor, int], Tensor] | None) -> float:
        return timed(lambda layer: self.layer(layer, attend), LAYERS, LAUNCHES)


def time_all(result: dict[str, Any], cells: Sequence[tuple[str, int, int]]) -> None:
    print("us a layer beyond the products; floor: bytes of keys and values at 3.05 TB/s")
    print("best: (block, warps, registers, per_sm, least, ahead)")
    for name, rows, context in cells:
        layers = Layers(name, rows, context)
        products = layers.timed(None)
        old = layers.timed(layers.two()) - products
        runs: list[tuple[float, EntryConfig]] = []

        def measure(configs: Iterator[EntryConfig], layers: Layers = layers, base: float = products,
                    runs: list[tuple[float, EntryConfig]] = runs) -> None:  # fmt: skip
            for config in configs:
                try:
                    runs.append((layers.timed(layers.one(config)) - base, config))
                except Exception as error:
                    print(f"    cannot: {tuple(config)}: {type(error).__name__} {str(error)[:90]}")
                    torch.cuda.synchronize()
            runs.sort(key=lambda run: run[0])

        measure(candidates())
        for best in [config for _, config in runs[:2]]:
            measure(variations(best))
        chosen = entry_config(rows, 0, layers.step.d, 2) or EntryConfig()
        ours = layers.timed(layers.one(chosen)) - products
        said = "  ".join(f"{us:.2f} {tuple(c)}" for us, c in runs[:4])
        floor = layers.step.bytes / BANDWIDTH * 1e6
        print(f"{name:>4} {rows:2} x {context:4}: products {products:6.2f} floor {floor:6.2f} two {old:6.2f} "
              f"one {ours:6.2f} {tuple(chosen)}  best {said}", flush=True)  # fmt: skip
        result[f"{name} {rows}x{context}"] = {
            "products": products, "floor": floor, "two": old, "one": ours, "chosen": chosen._asdict(),
            "runs": [{"us": round(us, 3), **c._asdict()} for us, c in runs],
        }  # fmt: skip
        del layers


def check_steps(result: dict[str, Any], cells: Sequence[tuple[str, int, int]]) -> None:
    """Steps that follow one another in one graph, new places poisoned: what one launch makes of them against
    what two do, and what it leaves in the cache."""
    worst = 0.0
    for name, rows, context in (("8B", 1, 100), ("8B", 8, 300), ("0.6B", 3, 1000), ("0.6B", 16, 33)):
        layers = Layers(name, rows, context)
        for config in (
            EntryConfig(64, 8, 128, ahead=1),
            EntryConfig(32, 4, 128, 2, 2, 1),
            EntryConfig(128, 8, None, 1, 1, 2),
        ):
            outcomes = [several_steps(layers, attend) for attend in (layers.two(), layers.one(config))]
            errors = [
                float((a - b).abs().max() / b.abs().max()) if a.isfinite().all() else float("inf")
                for a, b in zip(outcomes[1], outcomes[0], strict=True)
            ]
            worst = max(worst, *errors)
            print(f"  steps {name} {rows} x {context} {tuple(config)}: largest difference of outputs "
                  f"{errors[0]:.1e}, of caches {errors[1]:.1e}", flush=True)  # fmt: skip
    print(f"steps: largest difference {worst:.1e} ({'right' if worst < 2e-2 else 'WRONG'})", flush=True)
    result["steps"] = worst


def several_steps(
    layers: Layers, attend: Callable[[Tensor, int], Tensor], many: int = 6
) -> tuple[Tensor, Tensor]:
    """(outputs, caches at the end) of `many` steps by a replayed graph."""
    s, lengths, x = layers.step, layers.step.lengths.clone(), layers.x.clone()
    caches = [cache.clone() for cache in s.caches]
    outs = torch.zeros(many, *layers.x.shape, device="cuda")

    def back() -> None:
        s.lengths.copy_(lengths - many)
        for cache, old in zip(s.caches, caches, strict=True):
            cache.copy_(old)
            for row, length in enumerate(lengths.tolist()):
                for at in range(length - many, length):
                    cache[s.tables[row, at // s.page].long(), :, :, at % s.page] = float("nan")

    def steps() -> None:
        for i in range(many):
            s.lengths += 1
            layers.x.copy_(x * (1 + i))
            layers.place()
            for layer in range(min(s.layers, LAYERS)):
                outs[i] += layers.layer(layer, attend)

    back()
    steps()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps()
    back()
    outs.zero_()
    graph.replay()
    torch.cuda.synchronize()
    found = outs.clone(), torch.cat([cache.flatten() for cache in s.caches[:LAYERS]]).float()
    back()
    s.lengths.copy_(lengths)
    layers.x.copy_(x)
    for cache, old in zip(s.caches, caches, strict=True):
        cache.copy_(old)
    layers.place()
    return found


def check(result: dict[str, Any], cells: Sequence[tuple[str, int, int]]) -> None:
    """The tests' cases on the GPU, in several processes: most of it is compiling."""
    from tests.kernels import test_attention_entry as tests

    tasks: list[dict[str, Any]] = [
        {"shape": shape, "norm": i % 2 == 0} for i, shape in enumerate(tests.SHAPES)
    ]
    plain = {"heads": 32, "kv_heads": 8, "d": 128, "dtype": BF16}
    for heads in (32, 16, 8):
        shape = {**plain, "heads": heads}
        tasks += [{"shape": shape, "norm": heads == 16, "cut": cut} for cut in CUTS]
    with workers() as pool:
        wrong = [said for said in pool.map(check_case, tasks) if said]
    for said in wrong:
        print(f"  WRONG: {said}")
    print(f"check: {len(wrong)} of {len(tasks)} cases wrong", flush=True)
    result["check"] = wrong


def check_case(task: dict[str, Any]) -> str | None:
    from tests.kernels import test_attention_entry as tests
    from tests.kernels.attention_case import Case

    rows, config = tests.ROWS["mixed lengths"], {"block": 16, "warps": 4}
    if cut := task.get("cut"):
        rows = [(1, 1), (1, 700), (1, 33), (0, 0), (1, 5000), (1, 64), (1, 65), (1, 2049)]
        config = EntryConfig(*cut, ahead=1)._asdict()
    case = Case(rows, device="cuda", **task["shape"])
    try:
        for aim in (1, 5, 40):
            tests.run(case, aim, task["norm"], **config)
    except (AssertionError, RuntimeError):
        return f"{task}: {traceback.format_exc()[-400:]}"
    return None


def compile_one(task: tuple[str, int, EntryConfig | None]) -> None:
    name, rows, config = task
    layers = Layers(name, rows, 128)
    layers.layer(0, layers.two() if config is None else layers.one(config))
    torch.cuda.synchronize()


def compile_all(result: dict[str, Any], cells: Sequence[tuple[str, int, int]]) -> None:
    """Every kernel that is timed; failures are told where they are timed."""
    models = {name for name, _, _ in cells}
    tasks: list[tuple[str, int, EntryConfig | None]] = [(m, rows, None) for m in models for rows in (1, 8)]
    tasks += [(m, 1, EntryConfig(*cut, ahead=ahead)) for m in models for cut in CUTS for ahead in AHEAD]
    with workers() as pool:
        for future in [pool.submit(compile_one, task) for task in tasks]:
            future.exception()


PARTS = {"check": check, "steps": check_steps, "compile": compile_all, "time": time_all}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="check,compile,steps,time")
    parser.add_argument("--cells", help="such as 8B:1x128,0.6B:8x384")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cells = CELLS
    if args.cells:
        words = [cell.replace("x", ":").split(":") for cell in args.cells.split(",")]
        cells = [(name, int(rows), int(context)) for name, rows, context in words]
    folder = os.environ.get("OUT")
    out = args.out or (Path(folder) / "kernels_entry.json" if folder else None)
    result: dict[str, Any] = {**provenance(), "gpu": torch.cuda.get_device_name()}
    reserve(torch.device("cuda"))
    with torch.inference_mode():
        for name in args.only.split(","):
            began = time.perf_counter()
            PARTS[name](result, cells)
            print(f"[{name}: {time.perf_counter() - began:.1f} s]", flush=True)
            if out:
                write(out, result)


if __name__ == "__main__":
    main()
