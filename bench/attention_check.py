"""Every attention kernel against the definition on a GPU, poison wherever it must not look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from bench.attention_candidates import (
    decode_candidates,
    direct_candidates,
    fresh_candidates,
    prefill_candidates,
)
from bench.attention_step import BF16, processors, workers
from octavo.ops.triton import attention_direct
from octavo.ops.triton.attention_decode import DecodeConfig, Workspace, decode, programs_for
from octavo.ops.triton.attention_direct import DirectConfig
from octavo.ops.triton.attention_gather import FreshConfig, gather
from octavo.ops.triton.attention_prefill import PrefillConfig, prefill
from octavo.ops.triton.attention_prefix import PrefixConfig, shared_prefix
from octavo.ops.triton.attention_tune import decode_config, direct_config, prefill_config, prefix_config
from octavo.ops.triton.attention_work import make_work
from tests.kernels.attention_case import FP8, Case

ROWS = [
    (1, 1), (1, 700), (1, 33), (0, 0), (1, 5000), (1, 64), (1, 2049),
    (2, 2), (130, 130), (77, 1500), (300, 431),
]  # fmt: skip
HEADS = ((32, 8), (16, 8), (8, 8), (28, 4), (40, 1), (71, 1))
SHAPES: list[dict[str, Any]] = [
    *({"heads": h, "kv_heads": k} for h, k in HEADS),
    *({"d": d} for d in (64, 80, 96, 112, 160, 192, 256)),
    *({"page": page} for page in (32, 64, 128, 256)),
    {"window": 100}, {"window": 1}, {"window": 1024, "softcap": 30.0}, {"softcap": 2.0},
    {"dtype": torch.float16}, {"dtype": torch.float32}, {"dtype": torch.float32, "d": 256},
    {"cache_dtype": FP8, "k_scale": 0.5, "v_scale": 2.0}, {"cache_dtype": FP8, "d": 64, "heads": 16},
]  # fmt: skip


class Configs(NamedTuple):
    decode: DecodeConfig
    prefill: PrefillConfig
    prefix: PrefixConfig | None
    direct: DirectConfig | None = None  # instead of `decode`


def cases() -> Iterator[Case]:
    """Odd lengths, every option, all dtypes; long enough to be cut."""
    plain = {"heads": 8, "kv_heads": 2, "d": 128, "dtype": BF16, "device": "cuda", "pad": 5}
    for shape in SHAPES:
        yield Case(ROWS, **{**plain, **shape})
    yield Case([(1, 700 + i) for i in range(40)], shared=40, **{**plain, "heads": 32, "kv_heads": 8})
    yield Case([(1, 170 + i) for i in range(70)], shared=9, **{**plain, "heads": 6, "d": 80})


def error_of(case: Case, want: torch.Tensor, configs: Configs) -> float:
    """The largest error of all tokens of the step, in units of the tolerance."""
    c, dec = case, configs.decode
    scales = {"scale": c.scale, "softcap": c.softcap, "k_scale": c.k_scale, "v_scale": c.v_scale}
    shared = c.shared_pages if configs.prefix else None
    programs = programs_for(dec, c.kv_heads, processors())
    items = make_work(c.lengths, c.row_start, c.owners, shared, programs=programs, block=dec.block,
                      page=c.page, window=c.window, extra=dec.extra, least=dec.least)  # fmt: skip
    space = Workspace.make(programs, len(c.owners), c.heads, c.d, c.q.device)
    space.parts.fill_(float("nan"))
    c.out.fill_(float("nan"))
    prefix = None
    if configs.prefix:
        prefix = shared_prefix(c.q, c.k, c.v, c.tables, c.owners, c.row_start, c.shared_pages,
                               configs.prefix, **scales)  # fmt: skip
    if configs.direct:
        cut = attention_direct.programs_for(configs.direct.per_sm, len(c.owners), c.kv_heads, processors())
        space = Workspace.make(cut[1], len(c.owners), c.heads, c.d, c.q.device)
        space.parts.fill_(float("nan"))
        attention_direct.decode_few(
            c.q, c.k, c.v, c.out, c.tables, c.owners, c.lengths, c.row_start, space, configs.direct,
            programs=cut, window=c.window, **scales)  # fmt: skip
    else:
        decode(c.q, c.k, c.v, c.out, c.tables, c.row_start, items, space, dec, programs=programs,
               prefix=prefix, **scales)  # fmt: skip
    prefill(c.q, c.k, c.v, c.out, c.tables, c.owners, c.lengths, c.row_start, configs.prefill,
            tokens=c.q.shape[0], window=c.window, **scales)  # fmt: skip
    assert not space.counters.any(), "counters are left at zero"
    return c.check(c.out, want)


def configs_for(case: Case, every: bool) -> set[Configs]:
    """What attention_tune.py has for few and many rows, both ways of merging, and every candidate."""
    size, padded = case.cache.element_size(), 1 << (case.d - 1).bit_length()
    group, n = case.heads // case.kv_heads, case.q.shape[0]
    many, few = decode_config(100, padded, size), decode_config(1, padded, size)
    pre = prefill_config(n, max(n for _, n in case.rows), padded, group, size)
    pfx = None
    if case.shared:
        pfx = prefix_config(len(case.rows), padded, group, case.kv_heads, case.q.element_size(), processors())
    tried = {Configs(c, pre, pfx) for c in (many, few, many._replace(fused=False, per_sm=2))}
    if not case.shared:
        direct = direct_config(len(case.owners), padded, size)
        tried |= {Configs(few, pre, None, c) for c in (direct, direct._replace(per_sm=8, least=2)) if c}
    if every:
        tried |= {Configs(few, pre, None, c) for c in direct_candidates()}
        tried |= {Configs(c, pre, pfx) for c in decode_candidates()}
        tried |= {Configs(many, c, pfx) for c in prefill_candidates()}
    return tried


def check_case(seed: int) -> tuple[float, list[str]]:
    """One case with all its configurations: (largest error, what went wrong)."""
    case = list(cases())[seed]
    case.seed = seed
    want = case.build().expected()
    worst, said = 0.0, []
    for configs in configs_for(case, every=seed == 0):
        try:
            error = error_of(case, want, configs)
        except Exception as problem:
            said.append(f"cannot: {configs}: {type(problem).__name__} {str(problem)[:120]}")
            continue
        worst = max(worst, error)
        if error > 1:
            said.append(f"WRONG by {error:.2f} tolerances: {case} {configs}")
    return worst, said


FRESH = [(1, 40), (2, 2), (127, 127), (0, 0), (128, 128), (64, 900), (129, 129), (1000, 1000), (5, 5),
         (300, 301), (2049, 2049)]  # fmt: skip
WHOLE: list[dict[str, Any]] = [
    {}, {"d": 64}, {"heads": 7, "kv_heads": 1}, {"heads": 8, "kv_heads": 8}, {"dtype": torch.float16},
    {"page": 64, "pad": 300},
]  # fmt: skip


def whole_prompts(which: int, config: FreshConfig) -> tuple[float, bool]:
    """Keys gathered, values a view of wider rows: (error in tolerances, whether others are untouched)."""
    from octavo.ops.triton.attention_fresh import fresh

    plain = {"heads": 32, "kv_heads": 8, "d": 128, "dtype": BF16, "device": "cuda", "pad": 5}
    case = Case(FRESH, **{**plain, **WHOLE[which]}).build()
    keys = gather(case.k, case.slots())
    wide = torch.cat((torch.full_like(keys, float("nan")), gather(case.v, case.slots())), 1)
    values = wide[:, keys.shape[1] :]
    fresh(case.q, keys, values, case.out, case.lengths, case.row_start, config, scale=case.scale)
    mask = case.whole()
    return case.check(case.out[mask], case.expected()[mask]), bool(case.out[~mask].isnan().all())


def check_fresh(result: dict[str, Any]) -> None:
    errors = []
    for config in fresh_candidates():
        for seed, shape in enumerate(WHOLE):
            error, clean = whole_prompts(seed, config)
            errors.append(error if clean else 1e9)
            said = f"{error:.3f} of the tolerance, others {'untouched' if clean else 'OVERWRITTEN'}"
            print(f"  whole prompts {tuple(config)} {shape}: {said}", flush=True)
    result["check fresh"] = max(errors)


def check(result: dict[str, Any]) -> None:
    """In several processes on the one GPU, since most of the time goes into compiling."""
    worst = 0.0
    with workers() as pool:
        for error, said in pool.map(check_case, range(len(list(cases())))):
            worst = max(worst, error)
            for line in said:
                print(f"  {line}", flush=True)
    print(f"checks: largest error {worst:.3f} of the tolerance", flush=True)
    result["check"] = worst
