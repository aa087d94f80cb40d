"""LLM.beam_search against transformers' own, in float32; and what the prefix cache saves."""

from __future__ import annotations

import pytest
import torch

from octavo import LLM, BeamSearchParams
from octavo.core.errors import UserError
from tests.cpu.models.tiny import save

PROMPTS = [[1, 17, 80, 3, 99, 45], [1, 5], [7] * 40]
EOS = 2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(transformers' model, LLM) of the same weights."""
    folder = tmp_path_factory.mktemp("tiny")
    model = save("llama", folder)
    with LLM(
        str(folder), skip_tokenizer_init=True, dtype="float32", kv_cache_memory_bytes="8MiB", max_logprobs=-1
    ) as llm:
        yield model, llm


@torch.inference_mode()
def theirs(model, prompt, width, length):
    """(tokens after the prompt, sum of log-probabilities) of transformers' beams, which never end."""
    done = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=width,
        num_return_sequences=width,
        do_sample=False,
        max_new_tokens=length,
        length_penalty=0.0,
        eos_token_id=-1,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    said = [tokens[len(prompt) :].tolist() for tokens in done.sequences]
    return list(zip(said, done.sequences_scores.tolist(), strict=True))


@torch.inference_mode()
def plainly(model, prompt, width, length, penalty):
    """The same of a search with ends, over transformers' logits and nothing else: no cache, no early end."""
    ended, live = [], [([], 0.0)]

    def score(beam):
        tokens, value = beam
        return value / (len(prompt) + len(tokens) - (tokens[-1] == EOS)) ** penalty

    for _ in range(length):
        grown = []
        for tokens, value in live:
            logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, -1].float()
            best = torch.log_softmax(logits, -1).topk(2 * width)
            grown += [
                ([*tokens, int(id)], value + float(more))
                for id, more in zip(best.indices, best.values, strict=True)
            ]
        ended += [beam for beam in grown if beam[0][-1] == EOS]
        live = sorted((b for b in grown if b[0][-1] != EOS), key=score, reverse=True)[:width]
    return sorted(ended + live, key=score, reverse=True)[:width]


def ours(output, prompt):
    return [(one.tokens[len(prompt) :], one.cum_logprob) for one in output.sequences]


def check(outputs, wanted):
    for prompt, output, beams in zip(PROMPTS, outputs, wanted, strict=True):
        got = ours(output, prompt)
        assert [tokens for tokens, _ in got] == [tokens for tokens, _ in beams]
        assert [value for _, value in got] == pytest.approx([value for _, value in beams], abs=1e-3)


@pytest.mark.parametrize("width, length", [(4, 12), (7, 5), (2, 40)])
def test_beams_without_ends_are_those_of_transformers(tiny, width, length):
    """All have one length then, so that what lengths are normalised with does not matter."""
    model, llm = tiny
    outputs = llm.beam_search(
        PROMPTS, BeamSearchParams(beam_width=width, max_tokens=length, ignore_eos=True, temperature=0.7)
    )
    check(outputs, [theirs(model, prompt, width, length) for prompt in PROMPTS])
    assert {one.finish_reason for output in outputs for one in output.sequences} == {"length"}


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_beams_with_ends_are_those_of_a_plain_search(tiny, penalty):
    model, llm = tiny
    outputs = llm.beam_search(PROMPTS, BeamSearchParams(beam_width=4, max_tokens=12, length_penalty=penalty))
    check(outputs, [plainly(model, prompt, 4, 12, penalty) for prompt in PROMPTS])
    sequences = [one for output in outputs for one in output.sequences]
    for one in sequences:
        assert one.cum_logprob == pytest.approx(sum(next(iter(row.values())).logprob for row in one.logprobs))
        assert one.finish_reason == ("stop" if one.tokens[-1] == EOS else "length")
        assert one.stop_reason == (EOS if one.tokens[-1] == EOS else None)
    ended = any(one.finish_reason == "stop" for one in sequences)
    assert ended is (penalty < 2)  # which flatters what is long


def test_steps_read_what_was_computed_before(tiny):
    _, llm = tiny
    prompt = [(7 * n) % 190 + 3 for n in range(100)]
    llm.reset_prefix_cache()
    before = llm.stats()
    llm.beam_search(prompt, BeamSearchParams(beam_width=4, max_tokens=24, ignore_eos=True))
    after = llm.stats()
    asked = after.prefix_queries - before.prefix_queries
    computed = after.prompt_tokens - before.prompt_tokens
    assert asked == sum((100 + n) * (1 if n == 0 else 4) for n in range(24))
    assert after.prefix_hits - before.prefix_hits == asked - computed
    assert computed < asked / 5  # at most the last page of each beam, and the prompt once


def test_a_limit_of_prompts_at_once_changes_nothing(tiny):
    _, llm = tiny
    params = BeamSearchParams(beam_width=3, max_tokens=6)
    whole = llm.beam_search(PROMPTS, params)
    check(
        llm.beam_search(PROMPTS, params, concurrency_limit=1),
        [ours(*one) for one in zip(whole, PROMPTS, strict=True)],
    )
    assert llm.beam_search([], params) == []
    for wrong in (0, "x"):
        with pytest.raises(UserError, match="concurrency_limit"):
            llm.beam_search(PROMPTS, params, concurrency_limit=wrong)


def test_the_context_bounds_a_search(tiny):
    _, llm = tiny
    (output,) = llm.beam_search([5] * 250, BeamSearchParams(beam_width=2, max_tokens=50, ignore_eos=True))
    assert [len(one.tokens) for one in output.sequences] == [256, 256]
    with pytest.raises(UserError, match="256"):
        llm.beam_search([5] * 256, BeamSearchParams(beam_width=2, max_tokens=5))


def test_text_and_limits(llm):
    """The default model: text begins with the prompt, and the width has a limit."""
    params = BeamSearchParams(beam_width=3, max_tokens=6, temperature=0.0)
    (output,) = llm.beam_search("The capital of France is", params)
    best = output.sequences[0]
    assert best.text.startswith("The capital of France is") and len(output.sequences) == 3
    assert any("Paris" in one.text for one in output.sequences)
    (greedy,) = llm.beam_search(
        {"prompt": "The capital of France is"}, BeamSearchParams(beam_width=1, max_tokens=6)
    )
    assert best.cum_logprob >= greedy.sequences[0].cum_logprob
    with pytest.raises(UserError, match="the limit is 10") as caught:
        llm.beam_search("x", BeamSearchParams(beam_width=11, max_tokens=6))
    assert caught.value.field == "beam_width" and "--max-logprobs to 22" in caught.value.hint
