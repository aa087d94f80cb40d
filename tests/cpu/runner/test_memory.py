"""The memory plan: sums that fit, refusals whose remedy works."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from octavo.attention.cpu import CPUAttention
from octavo.config.cache import CacheConfig
from octavo.config.resolve import Resolved
from octavo.core.errors import UserError
from octavo.core.facts import Platform
from octavo.nn.protocols import CacheSpec
from octavo.runner.cache import Caches, lay_out
from octavo.runner.memory import Costs, plan_memory

GIB, MIB = 1 << 30, 1 << 20
COSTS = Costs(
    weights=540 * MIB,
    page=46080 * 16,
    groups=1,
    layers=30,
    hidden=576,
    widest=3072,
    vocab=49152,
    itemsize=4,
    slots=MIB,
)
FIELDS = {"max_num_batched_tokens": "budget", "dtype": "dtype"}


def resolved(**given) -> Resolved:
    cache = {key: given.pop(key) for key in list(given) if key in CacheConfig.__dataclass_fields__}
    base = dict(
        dtype="float32", kv_dtype="float32", load_format="gguf", max_model_len=8192, fixed_len=False, max_num_seqs=64,
        budget=512, fixed_budget=False, block_size=16, depth=2, eager=False, cache=CacheConfig(**cache),
    )  # fmt: skip
    return Resolved(**{**base, **given})


def machine(total: float = 16, free: float | None = None, kind: str = "cpu") -> Platform:
    free = total * 0.8 if free is None else free
    return Platform(kind=kind, name="x", cores=2, memory_total=int(total * GIB), memory_free=int(free * GIB))


def total(plan) -> int:
    *rows, last = plan.rows
    assert last.name == "total"
    assert last.nbytes == sum(row.nbytes for row in rows), "the table adds up"
    return last.nbytes


def test_auto_on_a_cpu_takes_two_gib_and_no_more():
    plan = plan_memory(resolved(), COSTS, machine())
    assert 2 * GIB - COSTS.page < plan.pages * COSTS.page <= 2 * GIB
    assert (plan.max_model_len, plan.decisions) == (8192, ())
    rows = {row.name: row.nbytes for row in plan.rows}
    assert rows["weights"] == COSTS.weights
    assert rows["attention scratch"] >= 2 * rows["KV cache"] // COSTS.layers, "a padded gather of one layer"
    assert total(plan) < 4 * GIB


def test_auto_holds_one_request_of_full_length():
    plan = plan_memory(resolved(max_model_len=131072), COSTS, machine(64))
    assert plan.pages == 131072 // 16 + 1


def test_auto_never_takes_what_nobody_can_use():
    plan = plan_memory(resolved(max_num_seqs=2, max_model_len=100), COSTS, machine())
    assert plan.pages == 1 + 2 * 7


def test_a_gpu_takes_all_that_fits():
    plan = plan_memory(resolved(max_num_seqs=4096), COSTS, machine(80, kind="cuda"))
    assert 0 <= int(0.8 * 80 * GIB) - total(plan) < 2 * COSTS.page


@pytest.mark.parametrize("free", [1.0, 1.2, 1.6, 2.2, 3.0, 9.0])
def test_auto_always_fits_and_shortens_the_context_only_where_it_must(free):
    plan = plan_memory(resolved(max_model_len=32768), COSTS, machine(16, free))
    assert total(plan) <= free * GIB
    assert bool(plan.decisions) == (plan.max_model_len < 32768)
    assert -(-plan.max_model_len // 16) <= plan.pages - 1


def test_exact_sizes_are_exact():
    plan = plan_memory(resolved(kv_cache_memory_bytes=700 * MIB), COSTS, machine())
    assert plan.pages == 700 * MIB // COSTS.page
    assert plan_memory(resolved(num_gpu_blocks_override=600), COSTS, machine()).pages == 601


def test_an_exact_size_may_go_beyond_the_share():
    plan_memory(resolved(kv_cache_memory_bytes=4 * GIB, gpu_memory_utilization=0.1), COSTS, machine())


def test_a_small_exact_cache_shortens_the_context():
    plan = plan_memory(resolved(num_gpu_blocks_override=10), COSTS, machine())
    assert plan.max_model_len == 160
    assert plan.decisions[0].field == "max_model_len"


def remedies(hint: str) -> list[tuple[str, str]]:
    return [(name.replace("-", "_"), value) for name, value in re.findall(r"--([a-z-]+) ([\w.]+)", hint)]


def apply(r: Resolved, name: str, value: str) -> Resolved:
    if name in CacheConfig.__dataclass_fields__:
        kind = float if name == "gpu_memory_utilization" else int
        return dataclasses.replace(r, cache=dataclasses.replace(r.cache, **{name: kind(value)}))
    return dataclasses.replace(r, **{FIELDS.get(name, name): value if name == "dtype" else int(value)})


REFUSED = [
    (resolved(kv_cache_memory_bytes=40 * GIB), machine(), COSTS),
    (resolved(num_gpu_blocks_override=10**6), machine(), COSTS),
    (resolved(kv_cache_memory_bytes=1000), machine(), COSTS),
    (resolved(gpu_memory_utilization=0.02), machine(), COSTS),
    (resolved(fixed_len=True, max_model_len=131072), machine(4), COSTS),
    (resolved(fixed_len=True, num_gpu_blocks_override=10), machine(), COSTS),
    (resolved(fixed_len=True, kv_cache_memory_bytes=100 * MIB), machine(), COSTS),
    (resolved(fixed_len=True, max_model_len=32768, gpu_memory_utilization=0.1), machine(), COSTS),
    (resolved(budget=65536), machine(4, 3), COSTS),
    (resolved(max_num_seqs=4096), machine(4, 3), COSTS),
    (resolved(), machine(16, 0.9), COSTS._replace(weights=900 * MIB)),
]


@pytest.mark.parametrize(("r", "device", "costs"), REFUSED)
def test_a_refusal_names_values_that_work(r, device, costs):
    with pytest.raises(UserError) as refused:
        plan_memory(r, costs, device)
    offered = remedies(refused.value.hint)
    assert offered, refused.value
    for name, value in offered:
        better = costs
        if name == "dtype":
            better = costs._replace(weights=costs.weights // 2, page=costs.page // 2, itemsize=2)
        plan = plan_memory(apply(r, name, value), better, device)
        assert total(plan) <= device.memory_free


def test_what_nothing_can_mend_says_how_much_is_missing():
    with pytest.raises(UserError, match=r"free .* of memory or use a smaller model"):
        plan_memory(resolved(), COSTS._replace(weights=40 * GIB), machine())


def test_caches_are_touched_once_and_zero():
    specs = [CacheSpec(f"layer{i}", 2, 8) for i in range(3)]
    layout = lay_out(specs, CPUAttention(), 16, torch.bfloat16)
    assert layout.page_bytes == 3 * 16 * 2 * 2 * 8 * 2
    caches = Caches(layout, 33, torch.bfloat16, torch.device("cpu"))
    caches.populate()
    for name, tensor in caches.tensors.items():
        assert tensor.shape == (33, 16, 2, 2, 8) and tensor.is_contiguous()
        assert not tensor.any(), name
        tensor.fill_(1)
    assert sum(t.numel() for t in caches.tensors.values()) * 2 == 33 * layout.page_bytes


def test_groups_share_memory_layer_by_layer():
    specs = [CacheSpec("a", 2, 8), CacheSpec("b", 2, 8, "window", 4, 1), CacheSpec("c", 2, 8)]
    layout = lay_out(specs, CPUAttention(), 16, torch.float32)
    assert [g.kind for g in layout.groups] == ["full", "window"]
    caches = Caches(layout, 9, torch.float32, torch.device("cpu"))
    caches.populate()
    assert caches.tensors["a"].data_ptr() == caches.tensors["b"].data_ptr() != caches.tensors["c"].data_ptr()
    assert layout.page_bytes == 2 * 16 * 2 * 2 * 8 * 4
