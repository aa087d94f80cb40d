"""From deltas to chunks and outputs: text, stops, log-probabilities, usage, equal at every cut."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from octavo.core.events import Timeline
from octavo.core.request import Delta, Finish, PositionLogprobs
from octavo.front.answer import Answer
from octavo.front.collect import Collector
from octavo.front.logprobs import FlatLogprobs, Logprob
from octavo.front.outputs import CompletionOutput, RequestOutput
from octavo.front.params import RequestOutputKind, SamplingParams
from tests.unit.front.scenes import TOKENIZER, Script, builder

TEXT = "hello é 😀 stop the world"
IDS = tuple(TOKENIZER.encode(TEXT))
EOS = 2


def prepare(params=None, prompt="hello"):
    return builder().build(prompt, params or SamplingParams(max_tokens=50))


def fold(prepared, deltas, tokenizer=TOKENIZER):
    """(output, chunks, answer) of a stream."""
    answer, collector = Answer(prepared, tokenizer), Collector(prepared, RequestOutputKind.FINAL_ONLY)
    chunks = [chunk for delta in deltas if (chunk := answer.feed(delta)) is not None]
    for chunk in chunks:
        collector.add(chunk)
    return collector.whole(), chunks, answer


def said(prepared, script, row=0):
    return script.deltas(prepared.requests[row])


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=50),
        SamplingParams(max_tokens=50, stop=["stop"]),
        SamplingParams(max_tokens=50, stop=["stop"], include_stop_str_in_output=True),
        SamplingParams(max_tokens=50, stop=["o"], min_tokens=4),
        SamplingParams(max_tokens=50, stop=["😀 s", "never"], logprobs=1),
        SamplingParams(max_tokens=50, stop=["ld"], prompt_logprobs=0),
    ],
    ids=range(6),
)
def test_every_cut_of_the_deltas_gives_the_same_answer(params):
    prepared = prepare(params)
    expected, _, _ = fold(prepared, said(prepared, Script(IDS)))
    for step in range(1, len(IDS) + 1):
        output, chunks, answer = fold(prepared, said(prepared, Script(IDS, step=step)))
        assert output == expected
        assert answer.done and answer.usage.completion == len(output.outputs[0].token_ids)
        assert "".join(chunk.text for chunk in chunks) == output.outputs[0].text


def test_a_plain_answer():
    prepared = prepare()
    output, _, answer = fold(prepared, said(prepared, Script(IDS)))
    (one,) = output.outputs
    assert (one.text, tuple(one.token_ids), one.finish_reason, one.stop_reason) == (TEXT, IDS, "length", None)
    assert one.logprobs is None and one.cumulative_logprob is None
    assert output.finished and output.num_cached_tokens == 3 and output.prompt_logprobs is None
    assert answer.usage == (len(prepared.token_ids), len(IDS), 3)


def test_stop_strings_end_a_row_and_give_it_back():
    prepared = prepare(SamplingParams(max_tokens=50, stop=["stop"]))
    output, _, answer = fold(prepared, said(prepared, Script(IDS)))
    (one,) = output.outputs
    assert (one.text, one.finish_reason, one.stop_reason) == ("hello é 😀 ", "stop", "stop")
    assert TOKENIZER.decode(one.token_ids).endswith("stop")
    assert answer.take_aborts() == (prepared.requests[0].id,) and answer.take_aborts() == ()
    assert answer.unfinished() == ()


def test_a_stop_string_in_the_last_delta_needs_no_abort():
    prepared = prepare(SamplingParams(max_tokens=50, stop=["world"]))
    output, _, answer = fold(prepared, said(prepared, Script(IDS)))
    assert output.outputs[0].stop_reason == "world" and answer.take_aborts() == ()


def test_news_after_the_end_is_dropped():
    prepared = prepare(SamplingParams(max_tokens=50, stop=["hello"]))
    answer = Answer(prepared, TOKENIZER)
    chunks = [answer.feed(delta) for delta in said(prepared, Script(IDS))]
    assert chunks[0].finish_reason == "stop" and not any(chunks[1:])
    assert answer.feed(Delta(id="unknown", tokens=(5,))) is None


@pytest.mark.parametrize(
    ("params", "end", "text", "reason"),
    [
        ({}, EOS, "hello", None),
        ({"skip_special_tokens": False}, EOS, "hello", None),
        ({"skip_special_tokens": False, "include_stop_str_in_output": True}, EOS, "hello<|im_end|>", None),
        ({"stop_token_ids": [3]}, 3, "hello", 3),
        ({"stop_token_ids": [3], "include_stop_str_in_output": True}, 3, "hello<think>", 3),
        ({"stop_token_ids": [EOS], "ignore_eos": True}, EOS, "hello", EOS),
        ({"stop": ["zzz"], "stop_token_ids": [3]}, 3, "hello", 3),
    ],
)
def test_the_token_that_ends_it_is_counted_but_not_shown(params, end, text, reason):
    prepared = prepare(SamplingParams(max_tokens=50, **params))
    ids = (*TOKENIZER.encode("hello"), end)
    output, _, _ = fold(prepared, said(prepared, Script(ids, Finish.STOP, end, step=9)))
    (one,) = output.outputs
    assert (one.text, one.finish_reason, one.stop_reason) == (text, "stop", reason)
    assert tuple(one.token_ids) == ids


def test_min_tokens_lets_early_stop_strings_pass():
    prepared = prepare(SamplingParams(max_tokens=50, min_tokens=2, stop=["o"]))
    ids = TOKENIZER.encode("hello world the stop")
    output, _, _ = fold(prepared, said(prepared, Script(ids)))
    assert output.outputs[0].text == "hello world the st"


def test_log_probabilities_are_named():
    prepared = prepare(SamplingParams(max_tokens=50, logprobs=2, prompt_logprobs=2))
    output, _, _ = fold(prepared, said(prepared, Script(IDS[:2])))
    (one,) = output.outputs
    assert len(one.logprobs) == 2 and one.cumulative_logprob == pytest.approx(-3.0)
    assert one.logprobs[0] == {
        IDS[0]: Logprob(-1.5, 2, TOKENIZER.token_text(IDS[0])),
        9: Logprob(-0.5, 1, TOKENIZER.token_text(9)),
    }
    assert next(iter(one.logprobs[0])) == IDS[0]
    assert output.prompt_logprobs[0] is None
    assert [next(iter(row)) for row in output.prompt_logprobs[1:]] == list(prepared.token_ids[1:])


def test_named_tokens_have_ranks_of_their_own():
    prepared = prepare(SamplingParams(max_tokens=50, logprob_token_ids=[9, 7, IDS[0]]))
    score = PositionLogprobs(IDS[0], -1.5, 2, (9, 7, IDS[0]), (-9.0, -0.5, -1.5), (40, 1, 2))
    delta = Delta(id=prepared.requests[0].id, tokens=IDS[:1], logprobs=(score,), finish=Finish.LENGTH)
    (row,) = fold(prepared, [delta])[0].outputs[0].logprobs
    assert [(id, one.logprob, one.rank) for id, one in row.items()] == [
        (IDS[0], -1.5, 2),
        (9, -9.0, 40),
        (7, -0.5, 1),
    ]


@pytest.mark.parametrize("kind", list(RequestOutputKind))
def test_flat_scores_read_as_the_others(kind):
    def told(flat):
        asked = SamplingParams(max_tokens=50, logprobs=2, prompt_logprobs=2, flat_logprobs=flat)
        prepared = prepare(asked)
        answer, collector = Answer(prepared, TOKENIZER), Collector(prepared, kind)
        chunks = [chunk for delta in said(prepared, Script(IDS)) if (chunk := answer.feed(delta))]
        return [output for chunk in chunks if (output := collector.add(chunk)) is not None]

    plain, flat = told(False), told(True)
    assert len(plain) == len(flat) > 0
    for one, other in zip(plain, flat, strict=True):
        assert isinstance(other.outputs[0].logprobs, FlatLogprobs)
        assert list(other.outputs[0].logprobs) == one.outputs[0].logprobs
        assert other.outputs[0].cumulative_logprob == one.outputs[0].cumulative_logprob
        assert isinstance(other.prompt_logprobs, FlatLogprobs)
        assert [row or None for row in other.prompt_logprobs] == one.prompt_logprobs
    merged = flat[0]
    for later in flat[1:]:
        merged.add(later, aggregate=kind is RequestOutputKind.DELTA)
    assert isinstance(merged.outputs[0].logprobs, FlatLogprobs) and len(merged.outputs[0].logprobs) == len(
        IDS
    )


CIRCLES = [
    # tokens, sizes and count, where it ends
    ([5, 6, 7, 7, 7, 7], (1, 1, 3), 5),
    ([5, 6, 5, 6, 5, 6, 5], (1, 2, 3), 6),
    ([5, 6, 5, 6, 5, 6, 5], (3, 5, 2), None),
    ([9, 5, 6, 7, 5, 6, 7, 8], (1, 3, 2), 7),
    ([5, 5, 5, 5], (2, 2, 2), 4),
    ([5, 6, 7, 8, 9], (1, 5, 2), None),
    ([5, 5, 5], (0, 0, 2), None),
]


@pytest.mark.parametrize(("ids", "sizes", "ends"), CIRCLES)
def test_an_answer_that_goes_round_in_circles_ends(ids, sizes, ends):
    low, high, count = sizes
    asked = {"min_pattern_size": low, "max_pattern_size": high, "min_count": count}
    for step in range(1, len(ids) + 1):
        prepared = prepare(SamplingParams(max_tokens=50, logprobs=0, repetition_detection=asked))
        output, chunks, answer = fold(prepared, said(prepared, Script(ids, step=step)))
        (one,) = output.outputs
        assert one.token_ids == ids[:ends] and len(one.logprobs) == len(one.token_ids)
        assert one.text == TOKENIZER.decode(ids[:ends]) == "".join(chunk.text for chunk in chunks)
        if ends is None or ends == len(ids):  # the engine's own end comes first
            assert (one.finish_reason, one.stop_reason, answer.take_aborts()) == ("length", None, ())
        else:
            assert (one.finish_reason, one.stop_reason) == ("repetition", "repetition_detected")
            late = -(-ends // step) * step >= len(ids)
            assert answer.take_aborts() == (() if late else (prepared.requests[0].id,))
        assert answer.usage.completion == len(one.token_ids)


def test_circles_before_min_tokens_pass():
    asked = {"max_pattern_size": 1, "min_count": 2}
    prepared = prepare(SamplingParams(max_tokens=50, min_tokens=4, repetition_detection=asked))
    output, _, _ = fold(prepared, said(prepared, Script([7, 7, 8, 9, 9, 9])))
    assert output.outputs[0].token_ids == [7, 7, 8, 9, 9]


def test_a_prompt_of_one_token_has_one_empty_score():
    prepared = prepare(SamplingParams(prompt_logprobs=0, max_tokens=50), prompt=[7])
    output, _, _ = fold(prepared, said(prepared, Script(IDS[:3])))
    assert output.prompt_logprobs == [None]


def test_scores_of_long_prompts_come_in_parts():
    prepared = prepare(SamplingParams(prompt_logprobs=0, max_tokens=50), prompt=[5, 6, 7, 8])
    whole = said(prepared, Script(IDS[:1]))[0]
    early = Delta(id=whole.id, prompt_logprobs=whole.prompt_logprobs[:2], cached_tokens=0)
    late = msgspec.structs.replace(whole, prompt_logprobs=whole.prompt_logprobs[2:], cached_tokens=None)
    output, _, _ = fold(prepared, [early, late])
    assert [row and next(iter(row)) for row in output.prompt_logprobs] == [None, 6, 7, 8]


def test_n_answers_keep_apart():
    prepared = prepare(SamplingParams(max_tokens=50, n=3, stop=["é"]))
    scripts = [Script(IDS), Script(TOKENIZER.encode("the world")), Script([4 + 0xC3])]
    rows = [said(prepared, script, row) for row, script in enumerate(scripts)]
    mixed = [delta for column in itertools.zip_longest(*rows) for delta in column if delta is not None]
    output, chunks, answer = fold(prepared, mixed)
    assert [one.text for one in output.outputs] == ["hello ", "the world", "\ufffd"]
    assert [one.index for one in output.outputs] == [0, 1, 2]
    assert {chunk.index for chunk in chunks} == {0, 1, 2}
    assert answer.done and len(answer.take_aborts()) == 1


def test_without_text_there_are_ids():
    prepared = builder(text=False).build([5], SamplingParams(max_tokens=50, logprobs=1))
    output, _, _ = fold(prepared, said(prepared, Script(IDS)), tokenizer=None)
    assert output.outputs[0].text == "" and tuple(output.outputs[0].token_ids) == IDS
    assert output.outputs[0].logprobs[0][IDS[0]].decoded_token is None
    quiet = prepare(SamplingParams(max_tokens=50, detokenize=False))
    assert fold(quiet, said(quiet, Script(IDS)))[0].outputs[0].text == ""


def test_failures_and_aborts_end_a_row():
    prepared = prepare()
    id = prepared.requests[0].id
    failed = [Delta(id=id, tokens=IDS[:1]), Delta(id=id, finish=Finish.ERROR, error="a device broke")]
    output, chunks, answer = fold(prepared, failed)
    assert (output.outputs[0].finish_reason, chunks[-1].error) == ("error", "a device broke")
    assert answer.done and answer.unfinished() == ()
    output, _, _ = fold(prepared, [Delta(id=id, finish=Finish.ABORT)])
    assert output.outputs[0].finish_reason == "abort"


def test_an_empty_delta_is_no_news():
    prepared = prepare()
    assert Answer(prepared, TOKENIZER).feed(Delta(id=prepared.requests[0].id)) is None


def test_times_are_told_at_the_end():
    prepared = prepare()
    times = Timeline(arrived=1.0, queued=1.5, scheduled=2.0, first_token=3.0, last_token=4.0)
    delta = Delta(id=prepared.requests[0].id, tokens=IDS[:2], finish=Finish.LENGTH, timeline=times)
    metrics = fold(prepared, [delta])[0].metrics
    assert (metrics.queued_ts, metrics.scheduled_ts, metrics.last_token_ts) == (1.5, 2.0, 4.0)
    assert metrics.first_token_latency == 2.0 and metrics.num_generation_tokens == 2


# -- output kinds -----------------------------------------------------------------------------


def outputs(kind, params=None):
    prepared = prepare(SamplingParams(max_tokens=50, output_kind=kind, **(params or {})))
    answer, collector = Answer(prepared, TOKENIZER), Collector(prepared)
    return [
        output
        for delta in said(prepared, Script(IDS))
        if (chunk := answer.feed(delta)) and (output := collector.add(chunk))
    ]


def test_cumulative_outputs_hold_all_so_far():
    found = outputs(RequestOutputKind.CUMULATIVE)
    texts = [output.outputs[0].text for output in found]
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert texts[-1] == TEXT and [output.finished for output in found].count(True) == 1
    assert len(found[2].outputs[0].token_ids) == 3


def test_delta_outputs_hold_what_is_new():
    found = outputs(RequestOutputKind.DELTA, {"logprobs": 1})
    assert "".join(output.outputs[0].text for output in found) == TEXT
    assert all(len(output.outputs[0].token_ids) == len(output.outputs[0].logprobs) == 1 for output in found)
    merged = found[0]
    for later in found[1:]:
        merged.add(later, aggregate=True)
    assert merged.outputs[0].text == TEXT and tuple(merged.outputs[0].token_ids) == IDS
    assert merged.finished and len(merged.outputs[0].logprobs) == len(IDS)


def test_final_outputs_come_once():
    found = outputs(RequestOutputKind.FINAL_ONLY)
    assert [output.outputs[0].text for output in found] == [TEXT]


def test_outputs_can_be_made_by_hand(caplog):
    made = RequestOutput("1", "p", [1], None, [CompletionOutput(0, "x", [2])], False, surprise=1)
    assert made.outputs[0].finished() is False and "surprise" in caplog.text
    made.add(RequestOutput("1", "p", [1], None, [CompletionOutput(0, "xy", [2, 3])], True), aggregate=False)
    assert made.outputs[0].text == "xy" and made.finished
