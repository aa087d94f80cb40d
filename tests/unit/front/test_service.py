"""Driving requests: asynchronously for a server, in batches for a program."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from octavo.core.errors import Unsupported, UserError
from octavo.core.request import Delta, Finish
from octavo.front.batch import Batch
from octavo.front.calls import config_from, each, options_from
from octavo.front.hf_view import view_of
from octavo.front.metrics import Counter, Gauge, Histogram, snapshot
from octavo.front.params import SamplingParams
from octavo.front.prompt import ChatOptions
from octavo.front.service import Front
from octavo.observe.meter import Meter
from tests.unit.front.scenes import TOKENIZER, FakeClient, FakeSyncClient, Script, builder

TEXT = "hello the world"
IDS = TOKENIZER.encode(TEXT)


def setup(script=None, pace=None, **params):
    made = builder()
    client = FakeClient(script or Script(IDS), pace)
    return client, Front(client, made), made.build("hello", SamplingParams(max_tokens=20, **params))


async def test_chunks_come_as_they_are_made():
    client, front, prepared = setup()
    chunks = [chunk async for chunk in front.generate(prepared)]
    assert "".join(chunk.text for chunk in chunks) == TEXT and len(chunks) == len(IDS)
    assert client.submitted == [prepared.requests[0].id] and client.aborted == []


async def test_a_whole_answer_is_the_folded_stream():
    _, front, prepared = setup(n=2)
    output = await front.whole(prepared)
    assert [one.text for one in output.outputs] == [TEXT, TEXT] and output.finished


async def test_rows_that_hit_a_stop_string_are_given_back():
    client, front, prepared = setup(stop=["the"], n=2)
    output = await front.whole(prepared)
    assert [one.text for one in output.outputs] == ["hello ", "hello "]
    assert sorted(client.aborted) == sorted(row.id for row in prepared.requests)


async def test_leaving_early_gives_everything_back():
    client, front, prepared = setup(n=2)
    async with contextlib.aclosing(front.generate(prepared)) as chunks:
        async for _ in chunks:
            break
    assert sorted(client.aborted) == sorted(row.id for row in prepared.requests)


async def test_a_cancelled_reader_gives_everything_back():
    client, front, prepared = setup(pace=asyncio.Semaphore(1))
    seen = asyncio.Event()

    async def read():
        async with contextlib.aclosing(front.generate(prepared)) as chunks:
            async for _ in chunks:
                seen.set()

    task = asyncio.create_task(read())
    await seen.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert client.aborted == [prepared.requests[0].id]


async def test_nothing_is_submitted_before_it_is_read():
    client, front, prepared = setup()
    await front.generate(prepared).aclose()
    assert client.submitted == [] and client.aborted == []


# -- batches ----------------------------------------------------------------------------------


def batch(script):
    client = FakeSyncClient(script)
    return client, Batch(client, TOKENIZER, Meter(64)), builder()


def test_outputs_come_in_the_order_of_the_prompts():
    _, made, building = batch(Script(IDS))
    keys = made.submit([building.build([at + 5], SamplingParams(max_tokens=20)) for at in range(5)])
    seen = []
    outputs = made.finish(keys[::-1], lambda ended, tokens: seen.append((ended, tokens)))
    assert [output.prompt_token_ids for output in outputs] == [[9], [8], [7], [6], [5]]
    assert sum(ended for ended, _ in seen) == 5 and sum(tokens for _, tokens in seen) == 5 * len(IDS)


def test_requests_may_wait_beside_others():
    _, made, building = batch(Script(IDS))
    early = made.submit([building.build("hello", SamplingParams(max_tokens=20))])
    late = made.submit([building.build("the", SamplingParams(max_tokens=20))])
    assert made.finish(late)[0].prompt == "the"
    assert made.finish(early)[0].prompt == "hello"


def test_an_idle_engine_begins_with_what_fills_a_step():
    client, building = FakeSyncClient(Script(IDS)), builder()
    made = Batch(client, TOKENIZER, Meter(64), full=5)
    queued: list[int] = []
    step = client.step
    client.step = lambda: (queued.append(len(client.left)), step())[1]

    def prompts():
        return [building.build([at + 5, 6, 7], SamplingParams(max_tokens=20)) for at in range(4)]

    ended = []
    outputs = made.finish(made.submit(prompts(), begin=True), lambda *news: ended.append(news[0]))
    assert queued[:2] == [2, 4], "begun after two of them, then with all"
    assert [output.prompt_token_ids[0] for output in outputs] == [5, 6, 7, 8] and sum(ended) == 4
    queued.clear()
    keys = made.submit(prompts())
    assert queued == [], "these wait"
    keys += made.submit(prompts(), begin=True)
    assert queued == [], "with others before them, which finish will begin"
    made.finish(keys)


def test_a_prompt_that_is_refused_takes_those_before_it_along():
    client, building = FakeSyncClient(Script(IDS)), builder()
    made = Batch(client, TOKENIZER, Meter(64), full=3)
    waiting = made.submit([building.build("hello", SamplingParams(max_tokens=20))])
    made.finish(waiting)

    def prompts(last):
        yield building.build([5, 6, 7], SamplingParams(max_tokens=20))
        yield building.build(last, SamplingParams(max_tokens=20))

    with pytest.raises(UserError):
        made.submit(prompts([-1]), begin=True)
    assert not client.busy and len(client.aborted) == 1, "though it had begun"
    queued = made.submit([building.build("hello", SamplingParams(max_tokens=20))])
    with pytest.raises(UserError):
        made.submit(prompts([-1]), begin=True)
    assert made.finish(queued)[0].outputs[0].text == TEXT, "others go on"

    def interrupt(ended, tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.submit(prompts([5]), True, interrupt)
    assert not client.busy


def test_an_interrupt_leaves_nothing_under_way():
    client, made, building = batch(Script(IDS))
    keys = made.submit([building.build("hello", SamplingParams(max_tokens=20, n=2))])

    def interrupt(ended, tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.finish(keys, interrupt)
    assert not client.busy and len(client.aborted) == 2
    again = made.submit([building.build("the", SamplingParams(max_tokens=20))])
    assert made.finish(again)[0].outputs[0].text == TEXT


def test_a_failed_request_is_told_and_the_others_go_on(caplog):
    client, made, building = batch(Script(IDS))
    keys = made.submit([building.build("hello", SamplingParams(max_tokens=20)) for _ in range(2)])
    client.left[keys[0]] = [Delta(id=keys[0], finish=Finish.ERROR, error="a device broke")]
    bad, good = made.finish(keys)
    assert bad.outputs[0].finish_reason == "error" and "a device broke" in caplog.text
    assert good.outputs[0].text == TEXT


def test_what_is_counted_can_be_read():
    client = FakeSyncClient(Script(IDS))
    meter = Meter(64)
    made, building = Batch(client, TOKENIZER, meter), builder()
    made.finish(made.submit([building.build("hello", SamplingParams(max_tokens=20))]))
    found = {metric.name: metric for metric in snapshot(meter, client.stats(), "tiny")}
    assert found["vllm:generation_tokens"] == Counter(
        "vllm:generation_tokens", {"model_name": "tiny", "engine": "0"}, len(IDS)
    )
    assert found["vllm:prefix_cache_queries"].value == 7
    assert isinstance(found["vllm:kv_cache_usage_perc"], Gauge)
    lengths = found["vllm:request_generation_tokens"]
    assert isinstance(lengths, Histogram) and lengths.count == 1 and lengths.buckets["+Inf"] == 1


# -- arguments of calls -----------------------------------------------------------------------


def test_one_value_for_all_or_one_for_each():
    assert each(None, 2, "x") == [None, None]
    assert each([1, 2], 2, "x") == [1, 2]
    with pytest.raises(UserError, match="3 sampling_params for 2 prompts"):
        each([1, 2, 3], 2, "sampling_params")


def test_settings_of_a_program():
    config = config_from(
        "m", {"max_model_len": "1k", "dtype": "half", "tensor_parallel_size": 1, "swap_space": 4}
    )
    assert (config.model.model, config.model.max_model_len, config.model.dtype) == ("m", 1000, "half")
    with pytest.raises(Unsupported):
        config_from("m", {"tensor_parallel_size": 4})
    with pytest.raises(UserError, match=r"unknown setting 'max_modellen'.*max_model_len"):
        config_from("m", {"max_modellen": 4})
    with pytest.raises(UserError, match="setting of the server"):
        config_from("m", {"port": 80})


def test_tokenization_arguments():
    assert options_from({"truncate_prompt_tokens": 3, "add_special_tokens": False}).truncate == 3
    with pytest.raises(Unsupported):
        options_from({"padding": True})


def test_a_tokenizer_for_people():
    made = builder()

    def render(conversation, tools, generation, final, variables):
        return made.render(conversation, ChatOptions(add_generation_prompt=generation))

    view = view_of(made.tokenizer, made.template, render)
    assert view.decode(view.encode("hello world")) == "hello world"
    assert view("hello")["attention_mask"] == [1] * len(view.encode("hello"))
    assert view(["hello", "the"])["input_ids"] == [view.encode("hello"), view.encode("the")]
    assert view.batch_decode([[1], [2]]) == ["<|im_start|>", "<|im_end|>"]
    assert view.batch_decode([[1], [2]], skip_special_tokens=True) == ["", ""]
    text = view.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("assistant\n")
    assert view.apply_chat_template([{"role": "user", "content": "x"}])[0] == 1
    assert view.convert_tokens_to_ids(["<|im_end|>"]) == [2] and view.convert_ids_to_tokens(2) == "<|im_end|>"
    assert (view.eos_token, view.eos_token_id, view.bos_token) == ("<|im_end|>", 2, "<|im_start|>")
    assert len(view) == view.vocab_size == len(view.get_vocab()) and "vocab_size" in repr(view)
    assert view.all_special_tokens == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert "".join(view.tokenize("hello")) == "hello"
    with pytest.raises(UserError, match="skip_tokenizer_init"):
        view_of(None, None, render)
