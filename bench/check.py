"""One prefill and one decode step of a model with random weights, on the GPU and by the reference on the CPU.

    python -m bench.check --model bench/models/qwen3-0.6b --dtype bfloat16

Before a benchmark is believed, the largest error of a logit over the largest logit must stay under
--bound. The reference is plain torch in float32 over the same weights.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import torch
from torch import Tensor

from octavo.attention.cpu import CPUAttention
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
from octavo.quant.none import Plain
from octavo.runner.cuda.device import CudaDevice
from octavo.runner.start import start

PROMPT = 200


def ours(config: EngineConfig, tokens: list[int]) -> Tensor:
    """Logits [2, vocab] after the prompt and after one more token, by the steps a request takes."""
    device, _ = start(config, locate(config.model), lambda stage, share: None)
    assert isinstance(device, CudaDevice), "this check needs a GPU"
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


def _logits(device: CudaDevice, plan: StepPlan) -> Tensor:
    device.forward(plan)
    logits = device.logits[0].cpu()
    device.sample(None).result()
    return logits


def reference(config: EngineConfig, dtype: torch.dtype, tokens: list[int]) -> Tensor:
    """Logits of the last two positions [2, vocab]."""
    hf = HFConfig.load(Path(str(config.model.model)) / "config.json")
    weights, backend, page, n = DummyCheckpoint(hf, config.model.seed), CPUAttention(), 16, len(tokens)
    b = Build.root({}, dtype=torch.float32, backend=backend, quant=Plain())
    model = build(hf, b)
    for sink in b.sinks():
        made = torch.empty(sink.target.shape, dtype=dtype, device="cuda")
        weights.read(sink.name, made)
        sink.target.copy_(made)
    b.finish()
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--bound", type=float, default=0.03)
    parser.add_argument("--engine-args", type=json.loads, default={})
    args = parser.parse_args()
    config = EngineConfig.from_flat(
        {
            "model": args.model, "load_format": "dummy", "skip_tokenizer_init": True, "max_model_len": 1024,
            "dtype": args.dtype, "kv_cache_memory_bytes": 1 << 30, **args.engine_args,
        }
    )  # fmt: skip
    vocab = json.loads((Path(args.model) / "config.json").read_text())["vocab_size"]
    tokens = [random.Random(5).randrange(10, vocab) for _ in range(PROMPT + 1)]
    got = ours(config, tokens)
    wanted = reference(config, getattr(torch, args.dtype), tokens)
    errors = ((got - wanted).abs().amax(1) / wanted.abs().amax(1)).tolist()
    print(f"{args.model} {args.dtype}: prefill {errors[0]:.2e}, decode {errors[1]:.2e} (bound {args.bound})")
    return 0 if max(errors) < args.bound else 1


if __name__ == "__main__":
    sys.exit(main())
