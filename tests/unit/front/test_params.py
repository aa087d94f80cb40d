"""SamplingParams: vLLM's defaults, ranges and error conditions, field by field."""

from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.core.errors import Unsupported, UserError
from octavo.front.params import RequestOutputKind, SamplingParams

NAN, INF = math.nan, math.inf

BAD = [
    ("n", [0, -1, 16385, 10**30, 1.0, "2", True, None]),
    ("presence_penalty", [-2.01, 2.01, NAN, INF, -INF, "1", None, True, 10**400]),
    ("frequency_penalty", [-2.01, 2.01, NAN, INF, "1", None]),
    ("repetition_penalty", [0, -1, NAN, INF, "1", None]),
    ("temperature", [-0.1, 2.01, NAN, INF, -INF, "hot", None, True, 10**400]),
    ("top_p", [0, -0.1, 1.01, NAN, INF, "1", None]),
    ("top_k", [-2, 1.5, "1", NAN, None, True, 1 << 40]),
    ("min_p", [-0.1, 1.01, NAN, INF, "1", None]),
    ("seed", [1.5, "1", True, 1 << 64, NAN]),
    ("stop", [7, [7], ["a", ""], "", ["a"] * 129, ["a" * 5000], {"a": 1}, b"x"]),
    ("stop_token_ids", ["1", ["1"], [-1], [1.0], [True], [NAN], [1 << 40], [0] * 2000, {1: 1}]),
    ("ignore_eos", [1, "true", None]),
    ("max_tokens", [0, -1, 1.5, "1", NAN, True, 1 << 40]),
    ("min_tokens", [-1, 17, 1.5, "1", None, True]),
    ("logprobs", [-2, 1.5, "1", NAN, 1 << 40]),
    ("prompt_logprobs", [-2, 1.5, "1", NAN]),
    ("detokenize", [1, "true", None]),
    ("skip_special_tokens", [1, "true", None]),
    ("spaces_between_special_tokens", [1, None]),
    ("include_stop_str_in_output", [1, None]),
    ("output_kind", [1, "DELTA", None]),
    ("logit_bias", [[1], {"a": 1}, {1: "x"}, {1: NAN}, {1: INF}, {-1: 1}, {1.5: 1}, {True: 1}, dict.fromkeys(range(5000), 1)]),
    ("allowed_token_ids", [[], [-1], ["1"], "1", [1.5], 7]),
    ("bad_words", [[""], [" "], [7], 7, ["a"] * 1025, ["a" * 2000]]),
    ("skip_reading_prefix_cache", [1, "x"]),
    ("flat_logprobs", [1, "true", None]),
    ("repetition_detection", [7, "x", [1], {"size": 2}, {"max_pattern_size": 5}, {"max_pattern_size": 5, "min_count": 1}]),
    ("repetition_detection", [{"max_pattern_size": 257, "min_count": 2}, {"max_pattern_size": 2, "min_pattern_size": 3, "min_count": 2}, {"max_pattern_size": True}, {"min_pattern_size": 1}, {"max_pattern_size": -1}]),
    ("logprob_token_ids", [7, "1", ["1"], [-1], [1.5], [True], {1: 1}, [1 << 40], [0] * 129]),
    ("extra_args", [[], "x", 7, {1: 2}, {"a": b"x"}, {"a": {1, 2}}, {"a": 1 << 64}, {"a": {2: 1}}, {"\ud800": 1}]),
    ("extra_args", [{"a": "x" * 70_000}, {"a": list(range(2000))}, {"a": [[[[[[[[[1]]]]]]]]]}, {"a": ["\udfff"]}]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in BAD for value in values],
    ids=lambda value: repr(value)[:30],
)
def test_bad_values_are_refused_by_name(field, value):
    with pytest.raises(UserError) as caught:
        SamplingParams(**{field: value})
    error = caught.value
    assert isinstance(error, ValueError)
    assert (error.field or "").startswith(field)
    assert field in error.message
    assert len(str(error)) < 300


GOOD = [
    ("n", 1, 1),
    ("temperature", 2, 2.0),
    ("temperature", np.float32(0.5), 0.5),
    ("top_p", 1, 1.0),
    ("top_k", -1, 0),
    ("top_k", np.int64(5), 5),
    ("seed", -1, None),
    ("seed", -5, -5),
    ("seed", (1 << 63) - 1, (1 << 63) - 1),
    ("stop", "x", ["x"]),
    ("stop", None, []),
    ("stop", ("x", "y"), ["x", "y"]),
    ("stop", [" "], [" "]),
    ("stop_token_ids", None, []),
    ("max_tokens", None, None),
    ("min_tokens", 16, 16),
    ("logprobs", True, 1),
    ("logprobs", False, None),
    ("logprobs", -1, -1),
    ("prompt_logprobs", 0, 0),
    ("logit_bias", {"7": 1, 8: -2.5}, {7: 1.0, 8: -2.5}),
    ("bad_words", ["x"], ["x"]),
    ("extra_args", {}, {}),
    (
        "extra_args",
        {"a": (1, 2.5, None, {"b": "c"}), "kv_transfer_params": {}},
        {"a": [1, 2.5, None, {"b": "c"}], "kv_transfer_params": {}},
    ),
    ("logprob_token_ids", (5, np.int64(7)), [5, 7]),
    ("logprob_token_ids", None, None),
    ("flat_logprobs", True, True),
    ("thinking_token_budget", -1, None),
    ("thinking_token_budget", 0, 0),
]


@pytest.mark.parametrize(("field", "value", "kept"), GOOD, ids=lambda value: repr(value)[:30])
def test_good_values_are_brought_to_one_form(field, value, kept):
    found = getattr(SamplingParams(**{field: value}), field)
    assert found == kept and type(found) is type(kept)


UNSUPPORTED = [
    ("extra_args", {"kv_transfer_params": {"do_remote_decode": True}}, "KV connectors"),
    ("extra_args", {"ec_transfer_params": {"x": 1}}, "KV connectors"),
    ("routed_experts_prompt_start", 3, "experts"),
]


@pytest.mark.parametrize(("field", "value", "words"), UNSUPPORTED)
def test_fields_that_wait_for_a_feature_say_so(field, value, words):
    with pytest.raises(Unsupported, match=words) as caught:
        SamplingParams(**{field: value})
    assert caught.value.field == field


def test_defaults_are_vllms():
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.top_k, params.min_p) == (1, 1.0, 1.0, 0, 0.0)
    assert (params.max_tokens, params.min_tokens, params.repetition_penalty) == (16, 0, 1.0)
    assert (params.stop, params.stop_token_ids, params.bad_words, params.seed) == ([], [], [], None)
    assert params.detokenize and params.skip_special_tokens and params.spaces_between_special_tokens
    assert params.output_kind is RequestOutputKind.CUMULATIVE
    assert not params.ignore_eos and params.logprobs is None and not params.skip_reading_prefix_cache


def test_greedy_forgets_what_has_no_effect_and_gives_one_answer():
    params = SamplingParams(temperature=0, top_p=0.5, top_k=5, min_p=0.2)
    assert params.greedy and (params.top_p, params.top_k, params.min_p) == (1.0, 0, 0.0)
    with pytest.raises(UserError, match="greedy") as caught:
        SamplingParams(temperature=0, n=2)
    assert caught.value.field == "n"


def test_a_very_low_temperature_is_raised(caplog):
    assert SamplingParams(temperature=0.001).temperature == 0.01
    assert "raised" in caplog.text
    assert SamplingParams(temperature=1e-6).greedy


def test_stop_strings_need_text():
    with pytest.raises(UserError, match="detokenize") as caught:
        SamplingParams(stop=["x"], detokenize=False)
    assert caught.value.field == "stop"


def test_named_tokens_are_as_many_as_logprobs_says():
    assert SamplingParams(logprob_token_ids=[4, 9], logprobs=2).scores
    assert SamplingParams(logprob_token_ids=[4]).scores and not SamplingParams(logprob_token_ids=[]).scores
    with pytest.raises(UserError, match="names 2 tokens") as caught:
        SamplingParams(logprob_token_ids=[4, 9], logprobs=5)
    assert caught.value.field == "logprobs" and "2" in caught.value.hint


def test_extra_arguments_are_the_request_s_own():
    given = {"a": [1]}
    params = SamplingParams(extra_args=given)
    copy = params.clone()
    given["a"].append(2)
    copy.extra_args["a"].append(3)
    assert params.extra_args == {"a": [1]}


def test_scored_prompts_are_not_read_from_the_cache():
    assert SamplingParams(prompt_logprobs=0).skip_reading_prefix_cache is True
    assert (
        SamplingParams(prompt_logprobs=0, skip_reading_prefix_cache=False).skip_reading_prefix_cache is False
    )


def test_only_keywords():
    with pytest.raises(TypeError):
        SamplingParams(2)
    with pytest.raises(TypeError):
        SamplingParams(temprature=1.0)


def test_from_optional_fills_in_and_clamps():
    params = SamplingParams.from_optional(temperature=None, n=None, logit_bias={"5": 400, 6: -400}, stop="x")
    assert params.temperature == 1.0 and params.n == 1
    assert params.logit_bias == {5: 100.0, 6: -100.0}
    assert SamplingParams.from_optional(max_tokens=None).max_tokens is None
    assert SamplingParams.from_optional().max_tokens == 16


def test_a_clone_is_independent():
    params = SamplingParams(stop=["a"], logit_bias={1: 2.0})
    copy = params.clone()
    copy.stop.append("b")
    copy.logit_bias[3] = 1.0
    assert params.stop == ["a"] and params.logit_bias == {1: 2.0}
    shared = SamplingParams(skip_clone=True)
    assert shared.clone() is shared


def test_changed_fields_are_checked_again():
    params = SamplingParams()
    params.temperature = 3.0
    with pytest.raises(UserError, match="temperature"):
        params.check()


def test_what_is_shown_is_what_was_changed():
    assert "temperature=0.5" in repr(SamplingParams(temperature=0.5))
    assert "min_p" not in repr(SamplingParams(temperature=0.5))
