"""A prefill and a decode step of a model with random weights, by Octavo and by a reference on the CPU.

    python -m bench.check --model bench/models/qwen3-0.6b --dtype bfloat16 --out r.json

Before a benchmark is believed, the largest error of a logit over the largest logit must stay
under a bound. The reference is plain torch in float32 over the same weights; with quantization="fp8" over
weights that are rounded as the engine rounds them, and the bound grows by twice what rounding activations in
the same way does to the reference ("rounding" in the result). Of a large model only the first layers are
checked (`--layers`), as many as hold a billion numbers: all of its layers have the same shapes.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from bench.record import provenance, write
from octavo.attention.cpu import CPUAttention
from octavo.checkpoint import open as open_module
from octavo.checkpoint.dummy import DummyCheckpoint
from octavo.checkpoint.find import locate
from octavo.config.engine import EngineConfig
from octavo.core.hf_config import HFConfig
from octavo.core.messages import Admission, StepPlan, Work, pack_work
from octavo.core.request import Sampling
from octavo.models.registry import build
from octavo.nn.attention import prepare
from octavo.nn.build import Build
from octavo.nn.forward import Forward, GroupInputs, HostBounds
from octavo.nn.protocols import Part
from octavo.ops.activation import GATES
from octavo.ops.norm import rms_norm
from octavo.ops.quant import to_eight_bits
from octavo.quant.none import Plain, PlainWeights
from octavo.runner.device import Device
from octavo.runner.start import start

PROMPT = 200
ROOM = 10**9  # numbers in the layers that are checked
MATRICES, VECTORS, EMBEDDINGS = 20, 200, 100  # times the dummy weights
BOUND = 0.03
EXACT = 1e-3  # in float32, where order of addition is all that differs
ROUNDINGS = (
    2  # with 8-bit weights several rows of activations are rounded, too: times what that does in torch
)
SETTINGS = {
    "load_format": "dummy", "skip_tokenizer_init": True, "max_model_len": 1024, "dtype": "bfloat16",
    "kv_cache_memory_bytes": 1 << 30,
}  # fmt: skip


def ours(config: EngineConfig, tokens: list[int]) -> Tensor:
    """Logits [2, vocab] after the prompt and after one more token, by the steps a request takes."""
    device, _ = start(config, locate(config.model), lambda stage, share: None)
    prompt, pages = tokens[:-1], -(-len(tokens) // config.cache.block_size)
    sampling = Sampling(temperature=0.0, max_tokens=8)
    admit = Admission(slot=0, tokens=tuple(prompt), prompt=len(prompt), start=0, seed=0, sampling=sampling)
    first = StepPlan(
        id=0, admit=(admit,), blocks=((0, 0, 0, tuple(range(1, pages + 1))),),
        work=pack_work([Work(0, 0, len(prompt), 0, 1)]),
    )  # fmt: skip
    found = [_logits(device, first)]
    # the token it drew is overwritten by the one the reference sees
    feed = ((0, len(prompt), tuple(tokens[-1:])),)
    found.append(_logits(device, StepPlan(id=1, feed=feed, work=pack_work([Work(0, len(prompt), 1, 0, 1)]))))
    device.close()
    return torch.stack(found)


def _logits(device: Any, plan: StepPlan) -> Tensor:
    """Between the two halves of a step; dummy norms make them so small that log-probabilities hide them."""
    device.forward(plan)
    if isinstance(device, Device):
        logits = torch.from_numpy(device._step.scores[0].copy())
    else:
        logits = device.logits[0].cpu()
    device.sample(None).result()
    return logits


class Lively(DummyCheckpoint):
    """A benchmark's weights, enlarged to a trained model's size: as they are, gains of a thousandth leave of
    the layers nothing that an error in them could change."""

    def read(self, name: str, into: Tensor) -> None:
        super().read(name, into)
        if into.dim() == 1:
            into.mul_(VECTORS)
        else:
            into.mul_(EMBEDDINGS if "embed_tokens" in name else MATRICES)
        if name.endswith("norm.weight"):
            into.add_(1)


class Known(Plain):
    """Knows which matrices are projections; `rounding`: what enters them goes through 8 bits."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.rounding = False

    def linear(self, b: Build, parts: Sequence[Part], n_in: int, bias: bool) -> PlainWeights:
        self.names |= {(b / part.name).name("weight") for part in parts}
        return Projection(self, b, parts, n_in, bias)


class Projection(PlainWeights):
    def __init__(self, known: Known, *given: Any) -> None:
        super().__init__(*given)
        self._known = known

    def __call__(
        self,
        x: Tensor,
        residual: Tensor | None = None,
        gain: Tensor | None = None,
        eps: float = 0.0,
        act: str | None = None,
        before: str | None = None,
    ) -> Tensor:
        if self._known.rounding:
            x = x if before is None else GATES[before](x)
            x = x if gain is None else rms_norm(x, gain, eps)
            values, scale = to_eight_bits.reference(x)  # a row is scaled as an output's weights are
            x, gain, before = values.float() * scale[:, None], None, None
        return super().__call__(x, residual, gain, eps, act, before)


def reference(hf: HFConfig, dtype: torch.dtype, seed: int, eight: bool, tokens: list[int]) -> list[Tensor]:
    """Logits of the last two positions [2, vocab]; `eight`: weights are rounded, and a second result is
    what comes of rounding activations as well."""
    weights, backend = Lively(hf, seed), CPUAttention()
    quant, made_on = Known(), "cuda" if torch.cuda.is_available() else "cpu"
    b = Build.root({}, dtype=torch.float32, backend=backend, quant=quant)
    model = build(hf, b)
    for sink in b.sinks():
        made = torch.empty(sink.target.shape, dtype=dtype, device=made_on)
        weights.read(sink.name, made)
        if eight and sink.name in quant.names:
            values, scale = to_eight_bits.reference(made)
            made = values.float() * scale[:, None]
        sink.target.copy_(made)
    b.finish()
    found = []
    for rounding in (False, True) if eight else (False,):
        quant.rounding = rounding
        found.append(forward(model, backend, tokens))
    return found


def forward(model: Any, backend: CPUAttention, tokens: list[int], page: int = 16) -> Tensor:
    n = len(tokens)
    pages = -(-n // page)
    inputs = GroupInputs(
        torch.tensor([n], dtype=torch.int32),
        torch.arange(1, pages + 1, dtype=torch.int32)[None],
        torch.arange(n) + page,
    )
    f = Forward(
        tokens=torch.tensor(tokens), positions=torch.arange(n),
        row_start=torch.tensor([0, n], dtype=torch.int32), logits_at=torch.arange(n),
        groups=(inputs,) * (1 + max(s.group for s in model.cache_specs)),
        caches={s.name: torch.zeros(backend.layout(s, pages + 1, page)) for s in model.cache_specs},
        bounds=HostBounds(1, n, n, n),
    )  # fmt: skip
    with torch.inference_mode():
        prepare(backend, model.cache_specs, f)
        return model.logits(model.forward(f)[-2:])


def layers_to_check(config: dict[str, Any]) -> int:
    hidden, inner, layers = (
        int(config[name]) for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    return max(1, min(layers, ROOM // (hidden * (4 * hidden + 3 * inner))))


def check(model: Path, given: dict[str, Any], layers: int | None, bound: float | None) -> dict[str, Any]:
    """Both errors, and what they were measured with."""
    began = time.perf_counter()
    config = json.loads((model / "config.json").read_text())
    layers = layers or layers_to_check(config)
    overrides = {**(given.get("hf_overrides") or {}), "num_hidden_layers": layers}
    settings = {**SETTINGS, **given, "model": str(model), "hf_overrides": overrides}
    eight = settings.get("quantization") == "fp8"
    dice = random.Random(5)
    tokens = [dice.randrange(10, config["vocab_size"]) for _ in range(PROMPT + 1)]
    with mock.patch.object(open_module, "DummyCheckpoint", Lively):
        got = ours(EngineConfig.from_flat(settings), tokens)
    hf = HFConfig({**config, **overrides}, str(model))
    dtype = getattr(torch, settings["dtype"])
    wanted, *more = reference(hf, dtype, settings.get("seed", 0), eight, tokens)
    errors = errors_of(got, wanted)
    rounding = {"rounding": errors_of(more[0], wanted)} if more else {}
    bound = bound or (EXACT if dtype == torch.float32 else BOUND)
    bound = bound + ROUNDINGS * max(rounding["rounding"]) if rounding else bound
    return {
        "prefill": errors[0], "decode": errors[1], **rounding, "bound": bound,
        "passed": max(errors) < bound, "layers": layers, "of_layers": config["num_hidden_layers"],
        "prompt": PROMPT, "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def errors_of(logits: Tensor, wanted: Tensor) -> list[float]:
    """Of each position, over its largest logit."""
    off = (logits - wanted).abs().amax(-1) / wanted.abs().amax(-1)
    return [float(f"{error:.3g}") for error in off.tolist()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--bound", type=float, help=f"default: {BOUND}, in float32 {EXACT}")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--layers", type=int, help="how many; default: as many as hold a billion numbers")
    parser.add_argument("--engine-args", type=json.loads, default={}, help="a JSON object")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = check(args.model, {"dtype": args.dtype, **args.engine_args}, args.layers, args.bound)
    print(json.dumps(found))
    if args.out:
        write(args.out, {**provenance(), "engine_args": args.engine_args, **found})
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
