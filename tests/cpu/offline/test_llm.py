"""LLM with the real default model: vLLM's behaviour, argument by argument."""

from __future__ import annotations

import itertools

import pytest

from octavo import LLM, SamplingParams
from octavo.core.errors import ArtefactError, NotFound, Unsupported, UserError
from octavo.front.logprobs import FlatLogprobs

GREEDY = SamplingParams(temperature=0, max_tokens=8)
FRANCE = "The capital of France is"


def texts(outputs):
    return [output.outputs[0].text for output in outputs]


def test_every_form_of_prompt_gives_the_same_answer(llm):
    ids = llm.get_tokenizer().encode(FRANCE)
    forms = [FRANCE, ids, {"prompt": FRANCE}, {"prompt_token_ids": ids}]
    single = [llm.generate(form, GREEDY, use_tqdm=False)[0] for form in forms]
    together = llm.generate(
        [FRANCE, {"prompt": FRANCE}, ids, {"prompt_token_ids": ids}], GREEDY, use_tqdm=False
    )
    assert len({tuple(output.outputs[0].token_ids) for output in [*single, *together]}) == 1
    assert "Paris" in texts(single)[0]
    assert [output.prompt for output in single] == [FRANCE, None, FRANCE, None]
    assert all(output.prompt_token_ids == ids and output.finished for output in single)


def test_outputs_keep_the_order_whoever_ends_first(llm):
    lengths = [9, 1, 5, 3, 12, 2]
    params = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in lengths]
    outputs = llm.generate([FRANCE] * len(lengths), params, use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == lengths
    longest = max(outputs, key=lambda output: len(output.outputs[0].token_ids)).outputs[0].text
    assert all(longest.startswith(text) for text in texts(outputs))
    assert all(output.outputs[0].finish_reason == "length" for output in outputs)


def test_ids_count_up(llm):
    one, two = llm.generate([FRANCE] * 2, GREEDY, use_tqdm=False)
    assert int(two.request_id) == int(one.request_id) + 1


def test_a_conversation_is_answered(llm):
    question = [{"role": "user", "content": "What is the capital of France?"}]
    params = SamplingParams(temperature=0, max_tokens=40)
    (one,) = llm.chat(question, params, use_tqdm=False)
    assert "Paris" in one.outputs[0].text
    assert (one.outputs[0].finish_reason, one.outputs[0].stop_reason) == ("stop", None)
    assert one.outputs[0].token_ids[-1] == llm.get_tokenizer().eos_token_id
    assert "<|im_" not in one.outputs[0].text
    other = [{"role": "user", "content": [{"type": "text", "text": "Say hi."}]}]
    several = llm.chat([question, other], params, use_tqdm=False)
    assert texts(several)[0] == one.outputs[0].text and len(several) == 2
    started = [*question, {"role": "assistant", "content": "The capital"}]
    (more,) = llm.chat(
        started, params, use_tqdm=False, add_generation_prompt=False, continue_final_message=True
    )
    assert more.prompt.endswith("The capital") and "Paris" in more.outputs[0].text
    bare = llm.chat(question, params, use_tqdm=False, chat_template="{{ messages[0].content }} Answer:")
    assert bare[0].prompt == "What is the capital of France? Answer:"


def test_stop_strings_and_stop_tokens(llm):
    free = llm.generate(
        FRANCE, SamplingParams(temperature=0, max_tokens=16, ignore_eos=True), use_tqdm=False
    )[0]
    text, ids = free.outputs[0].text, free.outputs[0].token_ids
    word = text.split()[2]
    for keep in (False, True):
        params = SamplingParams(temperature=0, max_tokens=16, stop=[word], include_stop_str_in_output=keep)
        (one,) = llm.generate(FRANCE, params, use_tqdm=False)[0].outputs
        end = text.index(word)
        assert one.text == text[: end + len(word) if keep else end]
        assert (one.finish_reason, one.stop_reason) == ("stop", word)
        assert list(one.token_ids) == list(ids[: len(one.token_ids)])
    (one,) = llm.generate(
        FRANCE, SamplingParams(temperature=0, max_tokens=16, stop_token_ids=[ids[3]]), use_tqdm=False
    )[0].outputs
    first = list(ids).index(ids[3])
    assert (one.finish_reason, one.stop_reason, list(one.token_ids)) == (
        "stop",
        ids[3],
        list(ids[: first + 1]),
    )


def test_several_answers_differ_and_repeat_with_their_seed(llm):
    params = SamplingParams(n=4, temperature=1.0, max_tokens=12, seed=11)
    one, two = (llm.generate(FRANCE, params, use_tqdm=False)[0] for _ in range(2))
    assert [o.text for o in one.outputs] == [o.text for o in two.outputs]
    assert len({o.text for o in one.outputs}) > 1
    assert [o.index for o in one.outputs] == [0, 1, 2, 3]
    alone = llm.generate(FRANCE, SamplingParams(temperature=1.0, max_tokens=12, seed=13), use_tqdm=False)[0]
    assert alone.outputs[0].text == one.outputs[2].text


def test_unseeded_requests_differ(llm):
    params = SamplingParams(temperature=1.0, max_tokens=16)
    assert len(set(texts(llm.generate([FRANCE] * 4, params, use_tqdm=False)))) > 1


def test_log_probabilities(llm):
    params = SamplingParams(temperature=0, max_tokens=5, logprobs=3, prompt_logprobs=2)
    (output,) = llm.generate(FRANCE, params, use_tqdm=False)
    (one,) = output.outputs
    assert len(one.logprobs) == len(one.token_ids) == 5
    for id, row in zip(one.token_ids, one.logprobs, strict=True):
        assert next(iter(row)) == id and row[id].rank == 1 and len(row) == 3
        ranked = sorted(row.values(), key=lambda value: value.rank)
        assert all(a.logprob >= b.logprob for a, b in itertools.pairwise(ranked))
    assert one.cumulative_logprob == pytest.approx(
        sum(row[id].logprob for id, row in zip(one.token_ids, one.logprobs, strict=True))
    )
    assert (
        "".join(row[id].decoded_token for id, row in zip(one.token_ids, one.logprobs, strict=True))
        == one.text
    )
    assert output.prompt_logprobs[0] is None
    assert [
        id in row for id, row in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    ] == [True] * (len(output.prompt_token_ids) - 1)


def test_named_tokens_have_the_log_probabilities_they_have_among_the_likeliest(llm):
    many = SamplingParams(temperature=0, max_tokens=5, logprobs=20)
    (whole,) = llm.generate(FRANCE, many, use_tqdm=False)[0].outputs
    named = sorted({id for row in whole.logprobs for id in row})[:40]
    asked = SamplingParams(temperature=0, max_tokens=5, logprob_token_ids=[*named, named[0]])
    (one,) = llm.generate(FRANCE, asked, use_tqdm=False)[0].outputs
    assert one.token_ids == whole.token_ids
    assert one.cumulative_logprob == pytest.approx(whole.cumulative_logprob, abs=1e-4)
    met = 0
    for id, row, likeliest in zip(one.token_ids, one.logprobs, whole.logprobs, strict=True):
        assert list(row) == list(dict.fromkeys((id, *named)))
        for shared in row.keys() & likeliest.keys():
            met += 1
            assert row[shared].rank == likeliest[shared].rank
            assert row[shared].logprob == pytest.approx(likeliest[shared].logprob, abs=1e-4)
            assert row[shared].decoded_token == likeliest[shared].decoded_token
    assert met > 20
    with pytest.raises(UserError) as caught:
        llm.generate(FRANCE, SamplingParams(logprob_token_ids=[1, 10**6]), use_tqdm=False)
    assert caught.value.field == "logprob_token_ids[1]"


def test_flat_log_probabilities(llm):
    def told(flat):
        asked = SamplingParams(temperature=0, max_tokens=4, logprobs=2, prompt_logprobs=1, flat_logprobs=flat)
        return llm.generate(FRANCE, asked, use_tqdm=False)[0]

    plain, flat = told(False), told(True)
    assert isinstance(flat.outputs[0].logprobs, FlatLogprobs)
    assert list(flat.outputs[0].logprobs) == plain.outputs[0].logprobs
    assert isinstance(flat.prompt_logprobs, FlatLogprobs)
    assert [row or None for row in flat.prompt_logprobs] == plain.prompt_logprobs
    assert len(flat.outputs[0].logprobs.token_ids) == sum(map(len, plain.outputs[0].logprobs))


def test_equal_beginnings_are_computed_once(llm):
    assert llm.reset_prefix_cache()
    prompt = "A long beginning that several prompts share, word for word. " * 8
    first, again = (llm.generate(prompt + FRANCE, GREEDY, use_tqdm=False)[0] for _ in range(2))
    assert first.num_cached_tokens == 0 and again.num_cached_tokens > 64
    assert first.outputs[0].token_ids == again.outputs[0].token_ids
    salted = llm.generate({"prompt": prompt + FRANCE, "cache_salt": "mine"}, GREEDY, use_tqdm=False)[0]
    assert salted.num_cached_tokens == 0 and salted.outputs[0].token_ids == first.outputs[0].token_ids
    scored = llm.generate(
        prompt + FRANCE, SamplingParams(temperature=0, max_tokens=8, prompt_logprobs=0), use_tqdm=False
    )[0]
    assert scored.num_cached_tokens == 0 and len(scored.prompt_logprobs) == len(scored.prompt_token_ids)
    assert llm.reset_prefix_cache()
    assert llm.generate(prompt + FRANCE, GREEDY, use_tqdm=False)[0].num_cached_tokens == 0


def test_requests_can_be_enqueued(llm):
    ids = llm.enqueue([FRANCE, "Two plus two is"], GREEDY)
    ids += llm.enqueue_chat([{"role": "user", "content": "Hi"}], GREEDY)
    direct = llm.generate(FRANCE, GREEDY, use_tqdm=False)
    outputs = llm.wait_for_completion(use_tqdm=False)
    assert [output.request_id for output in outputs] == ids
    assert texts(outputs)[0] == texts(direct)[0]
    assert llm.wait_for_completion(use_tqdm=False) == []


class Bar:
    """Looks like tqdm."""

    def __init__(self, total, desc):
        self.total, self.count, self.closed = total, 0, False

    def update(self, count):
        self.count += count

    def close(self):
        self.closed = True


def test_progress_is_told_to_any_bar(llm):
    bars = []

    def make(**facts):
        bars.append(Bar(**facts))
        return bars[-1]

    llm.generate([FRANCE] * 3, GREEDY, use_tqdm=make)
    assert (bars[0].total, bars[0].count, bars[0].closed) == (3, 3, True)
    llm.generate([FRANCE], GREEDY)  # its own bar, which is silent outside a terminal


def test_an_interrupt_leaves_an_idle_engine(llm):
    class Impatient(Bar):
        def update(self, count):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        llm.generate(
            [FRANCE] * 12,
            [SamplingParams(max_tokens=n, ignore_eos=True) for n in range(1, 13)],
            use_tqdm=Impatient,
        )
    stats = llm._client.stats()
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)
    assert "Paris" in texts(llm.generate(FRANCE, GREEDY, use_tqdm=False))[0]


def test_nothing_runs_when_one_prompt_is_refused(llm):
    before = llm._client.stats().steps
    for prompts in ([FRANCE, ""], [FRANCE, [10**6]], [FRANCE, "x " * 5000]):
        with pytest.raises(UserError):
            llm.generate(prompts, GREEDY, use_tqdm=False)
    with pytest.raises(UserError, match="2 sampling_params for 1 prompts"):
        llm.generate(FRANCE, [GREEDY, GREEDY], use_tqdm=False)
    assert llm._client.stats().steps == before
    assert llm.generate([], GREEDY, use_tqdm=False) == []


def test_without_parameters_the_models_defaults_hold(llm):
    assert llm.get_default_sampling_params().max_tokens == 16
    (output,) = llm.generate(FRANCE, use_tqdm=False)
    assert 0 < len(output.outputs[0].token_ids) <= 16


def test_the_context_is_filled_when_max_tokens_is_none(llm):
    (output,) = llm.generate([5] * 500, SamplingParams(max_tokens=None, ignore_eos=True), use_tqdm=False)
    assert len(output.outputs[0].token_ids) == 12 and output.outputs[0].finish_reason == "length"


def test_choices_can_be_bound_and_banned(llm):
    tokenizer = llm.get_tokenizer()
    paris = tokenizer.encode(" Paris")[0]
    (banned,) = llm.generate(
        FRANCE, SamplingParams(temperature=0, max_tokens=8, bad_words=["Paris"]), use_tqdm=False
    )
    assert "Paris" not in banned.outputs[0].text
    (only,) = llm.generate(
        FRANCE, SamplingParams(temperature=1, max_tokens=4, allowed_token_ids=[paris]), use_tqdm=False
    )
    assert list(only.outputs[0].token_ids) == [paris] * 4
    (pushed,) = llm.generate(
        "Hello", SamplingParams(temperature=0, max_tokens=1, logit_bias={str(paris): 100}), use_tqdm=False
    )
    assert list(pushed.outputs[0].token_ids) == [paris]


def test_metrics_count(llm):
    before = {metric.name: metric for metric in llm.get_metrics()}["vllm:generation_tokens"].value
    llm.generate([FRANCE] * 2, SamplingParams(max_tokens=3, ignore_eos=True), use_tqdm=False)
    after = {metric.name: metric for metric in llm.get_metrics()}["vllm:generation_tokens"].value
    assert after - before == 6


def test_what_does_not_exist_says_so(llm):
    with pytest.raises(Unsupported, match="pooling"):
        llm.embed([FRANCE])
    with pytest.raises(AttributeError):
        llm.nonsense()
    with pytest.raises(Unsupported, match="lora_request"):
        llm.generate(FRANCE, lora_request=object())


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"tensor_parallel_size": 2}, Unsupported, "tensor_parallel_size"),
        ({"max_modellen": 5}, UserError, "max_model_len"),
        ({"dtype": "int3"}, UserError, "dtype"),
        ({"port": 5}, UserError, "server"),
        ({"model": "/nowhere/at/all"}, NotFound, "does not exist"),
        ({"chat_template": "{% if"}, ArtefactError, "Jinja"),
    ],
)
def test_bad_settings_are_refused_before_loading(default_model, settings, error, words):
    with pytest.raises(error, match=words):
        LLM(**settings)
