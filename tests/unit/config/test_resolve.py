"""Every "auto" ends here with a reason; rules name a remedy that works. No torch."""

from __future__ import annotations

import re

import pytest

from octavo.config.engine import EngineConfig
from octavo.config.resolve import resolve
from octavo.config.rules import RULES
from octavo.core.errors import UserError
from octavo.core.facts import ModelFacts, Platform

GIB = 1 << 30


def facts(**given) -> ModelFacts:
    return ModelFacts(**{**dict(architecture="X", vocab_size=100, max_position=4096, num_layers=2), **given})


def platform(kind: str = "cpu", cores: int = 4, features: tuple[str, ...] = ()) -> Platform:
    return Platform(
        kind=kind, name="x", cores=cores, memory_total=16 * GIB, memory_free=12 * GIB, features=features
    )


def decide(
    device: Platform | None = None,
    model: ModelFacts | None = None,
    weights: str = "safetensors",
    native=("bfloat16", "it is fast"),
    **settings,
):
    config = EngineConfig.from_flat(settings)
    resolved, decisions = resolve(
        config, model or facts(), device or platform(), weights=weights, native=native
    )
    return resolved, {d.field: d for d in decisions}


def test_nothing_is_left_to_be_decided_later():
    resolved, why = decide()
    assert None not in vars(resolved).values() and "auto" not in vars(resolved).values()
    for field in (
        "dtype",
        "kv_cache_dtype",
        "load_format",
        "max_model_len",
        "max_num_seqs",
        "max_num_batched_tokens",
    ):
        assert why[field].why


@pytest.mark.parametrize(
    ("asked", "value"),
    [("auto", "bfloat16"), ("half", "float16"), ("float", "float32"), ("float32", "float32")],
)
def test_dtype(asked, value):
    resolved, why = decide(dtype=asked)
    assert (resolved.dtype, resolved.kv_dtype) == (value, value)
    assert ("dtype" in why) == (asked == "auto")


@pytest.mark.parametrize(
    ("kind", "asked", "instead"), [("cpu", "fp8", "int8"), ("cpu", "fp8_e4m3", "int8"), ("cuda", "int8", "fp8_e4m3")]
)  # fmt: skip
def test_an_eight_bit_cache_is_another_one_on_each_device(kind, asked, instead):
    with pytest.raises(UserError) as refused:
        decide(platform(kind), kv_cache_dtype=asked)
    assert refused.value.field == "kv_cache_dtype"
    assert f"no such cache on {kind}" in refused.value.message and f"use {instead} " in refused.value.hint
    assert decide(platform(kind), kv_cache_dtype=instead)[0].kv_dtype == instead


def test_what_is_asked_for_is_kept():
    resolved, why = decide(
        max_model_len=100, max_num_seqs=3, max_num_batched_tokens=77, kv_cache_dtype="bfloat16", load_format="dummy",
        async_scheduling=False,
    )  # fmt: skip
    assert (resolved.max_model_len, resolved.fixed_len, resolved.max_num_seqs) == (100, True, 3)
    assert (resolved.budget, resolved.kv_dtype, resolved.load_format, resolved.depth) == (
        77,
        "bfloat16",
        "dummy",
        1,
    )
    assert set(why) == {"dtype", "loop_depth"}


@pytest.mark.parametrize(("cores", "budget"), [(1, 512), (4, 512), (8, 1024), (64, 2048)])
def test_the_budget_grows_with_the_cores(cores, budget):
    assert decide(platform(cores=cores))[0].budget == budget


def test_an_atomic_model_takes_whole_prompts():
    assert decide(model=facts(atomic=True, max_position=9000))[0].budget == 9000


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        (dict(enforce_eager=True), "enforce_eager"),
        (dict(trust_remote_code=True), "trust_remote_code"),
        (dict(enable_chunked_prefill=False), "enable_chunked_prefill"),
        (dict(num_gpu_blocks_override=9, gpu_memory_utilization=0.5), "gpu_memory_utilization"),
    ],
)
def test_settings_without_effect_are_named(setting, field):
    made = decide(**setting)[1][field]
    assert made.idle and made.why
    assert field not in decide()[1]


def test_settings_of_a_cpu_are_idle_on_a_gpu():
    for setting in (
        dict(cpu_threads=2),
        dict(cpu_level="avx2"),
        dict(cpu_pin=True),
        dict(weight_pages="shared"),
    ):
        [field] = setting
        assert decide(platform("cuda"), **setting)[1][field].idle
        assert field not in decide(platform("cuda"))[1] and field not in decide(**setting)[1]


def test_own_blocks_need_a_gguf_file():
    assert decide(weights="gguf", quantization="gguf")
    with pytest.raises(UserError, match="safetensors") as refused:
        decide(quantization="gguf")
    assert (refused.value.field, ".gguf" in refused.value.hint) == ("quantization", True)


BROKEN = [
    (dict(max_model_len=5000), {}, "max_model_len"),
    (dict(kv_cache_memory_bytes=1 << 30, num_gpu_blocks_override=5), {}, "num_gpu_blocks_override"),
    (dict(max_num_batched_tokens=100), dict(atomic=True), "max_num_batched_tokens"),
    (dict(max_num_batched_tokens=100, long_prefill_token_threshold=200), {}, "long_prefill_token_threshold"),
]


@pytest.mark.parametrize(("settings", "model", "field"), BROKEN)
def test_a_broken_rule_names_the_field_and_a_value_that_works(settings, model, field):
    with pytest.raises(UserError) as refused:
        decide(model=facts(**model), **settings)
    assert refused.value.field == field
    if found := re.search(r"--([a-z-]+) (\d+)", refused.value.hint):
        decide(model=facts(**model), **{**settings, found[1].replace("-", "_"): int(found[2])})
    else:
        assert field == "num_gpu_blocks_override"


def test_every_rule_has_a_case():
    assert len(RULES) == len(BROKEN)
