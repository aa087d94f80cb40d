"""Stages against plain row-by-row Python; rows in a batch against rows alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from octavo.core.messages import StepMasks
from octavo.core.request import Sampling
from octavo.ops import sample
from octavo.sampling.sampler import STAGES, Sampler
from octavo.sampling.stage import LogitsStage
from tests.cpu.sampling.rows import admission, logits_of, rows_of

VOCAB = 97


def run(admissions, logits, extra=None, masks=None):
    sampler = Sampler(64)
    for a in admissions:
        sampler.admit(a)
    return sampler.sample(logits.copy(), rows_of(admissions, extra), masks)


def edited(admissions, logits, extra=None) -> np.ndarray:
    """What the stages make of the logits."""
    stages: list[LogitsStage] = [make(64) for make in STAGES]
    rows, work = rows_of(admissions, extra), logits.copy()
    for stage in stages:
        wants = {a.slot for a in admissions if stage.admit(a)}
        at = np.flatnonzero([int(slot) in wants for slot in rows.slot])
        if len(at):
            stage.apply(work, rows, at)
    return work


def naive(row: list[float], s: Sampling, prompt: tuple[int, ...], output: tuple[int, ...]) -> list[float]:
    """The stages in vLLM's order, one token at a time."""
    none = -math.inf
    x = [float(np.float32(v)) for v in row]
    if s.allowed_token_ids is not None:
        x = [v if t in s.allowed_token_ids else none for t, v in enumerate(x)]
    for word in s.bad_words:
        lead = word[:-1]
        if len(lead) <= len(output) and output[len(output) - len(lead) :] == lead:
            x[word[-1]] = none
    if len(output) < s.min_tokens:
        for token in s.eos + s.stop_token_ids:
            x[token] = none
    for token, bias in s.logit_bias:
        x[token] += bias
    for token in set(prompt + output):
        x[token] = x[token] / s.repetition_penalty if x[token] > 0 else x[token] * s.repetition_penalty
    for token in set(output):
        x[token] -= s.frequency_penalty * output.count(token) + s.presence_penalty
    if s.temperature == 0:
        return x
    x = [v / s.temperature for v in x]
    top = max(x)
    if s.min_p:
        x = [v if math.exp(v - top) >= s.min_p else none for v in x]
    order = sorted(range(len(x)), key=lambda t: (-x[t], t))
    kept = order[: s.top_k or len(x)]
    total, share, nucleus = sum(math.exp(x[t] - top) for t in kept), 0.0, set()
    for token in kept:
        if share < s.top_p or s.top_p == 1:
            nucleus.add(token)
        share += math.exp(x[token] - top) / total
    return [v if t in nucleus else none for t, v in enumerate(x)]


PARAMS = {
    "greedy": dict(temperature=0.0),
    "plain": dict(),
    "hot": dict(temperature=1.7),
    "allowed": dict(allowed_token_ids=(3, 50, 96)),
    "one bad word": dict(bad_words=((5,), (7,))),
    "bad whole output": dict(bad_words=((20, 20, 11, 12, 33),)),
    "bad phrase": dict(bad_words=((11, 12, 40), (12, 41), (9, 9, 9, 9, 9, 9, 9, 42), (40, 43))),
    "early end": dict(min_tokens=9, eos=(2,), stop_token_ids=(30, 31)),
    "end allowed": dict(min_tokens=4, eos=(2,), stop_token_ids=(30,)),
    "bias": dict(logit_bias=((4, 5.5), (60, -100.0))),
    "repetition": dict(repetition_penalty=1.4),
    "reward": dict(repetition_penalty=0.7, temperature=0.0),
    "frequency": dict(frequency_penalty=0.8),
    "presence": dict(presence_penalty=-1.1),
    "min_p": dict(min_p=0.2),
    "top_k": dict(top_k=5),
    "top_p": dict(top_p=0.6),
    "all": dict(
        temperature=0.6, top_p=0.9, top_k=20, min_p=0.02, presence_penalty=0.3, frequency_penalty=0.2,
        repetition_penalty=1.1, min_tokens=6, eos=(2,), logit_bias=((8, 3.0),), bad_words=((11, 12, 8),),
        allowed_token_ids=tuple(range(60)),
    ),
}  # fmt: skip
PROMPT, OUTPUT = (11, 12, 13, 13, 90), (20, 20, 11, 12)


@pytest.mark.parametrize("name", PARAMS)
def test_a_stage_does_what_it_says(name):
    params = PARAMS[name]
    logits = logits_of(1, VOCAB, 5)
    got = edited([admission(3, PROMPT + OUTPUT, len(PROMPT), **params)], logits)[0]
    want = np.array(naive(logits[0].tolist(), Sampling(**params), PROMPT, OUTPUT))
    assert (np.isinf(got) == np.isinf(want)).all()
    finite = np.isfinite(want)
    np.testing.assert_allclose(got[finite], want[finite], rtol=2e-6, atol=2e-6)
    if name not in ("greedy", "plain", "end allowed"):
        assert not np.array_equal(got, logits[0]), "the case shows nothing"


def test_rows_with_different_parameters_equal_rows_alone():
    admissions = [
        admission(i, PROMPT + OUTPUT[: i % 5], len(PROMPT), seed=i * 31, **params)
        for i, params in enumerate(PARAMS.values())
    ]
    logits = logits_of(len(admissions), VOCAB, 8)
    together = run(admissions, logits)
    for i, a in enumerate(admissions):
        assert run([a], logits[i : i + 1])[0] == together[i]
    order = np.random.default_rng(0).permutation(len(admissions))
    assert (run([admissions[i] for i in order], logits[order]) == together[order]).all()


def test_a_slot_carries_nothing_over_to_its_next_request():
    sampler = Sampler(4)
    logits = logits_of(1, VOCAB)
    for params in PARAMS.values():
        sampler.admit(admission(1, PROMPT + OUTPUT, len(PROMPT), seed=5, **params))
        sampler.release(1)
    plain = admission(1, PROMPT, len(PROMPT), seed=6)
    sampler.admit(plain)
    assert sampler.sample(logits.copy(), rows_of([plain])) == run([plain], logits)


def test_penalties_after_readmission_equal_uninterrupted_ones():
    params = dict(repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=0.2, temperature=0.0)
    steps = [logits_of(1, VOCAB, s, 1.0) for s in range(40)]

    def decode(resume_every: int) -> list[int]:
        sampler, tokens = Sampler(64), list(PROMPT)
        for step, logits in enumerate(steps):
            a = admission(2, tokens, len(PROMPT), **params)
            if step == 0 or (resume_every and step % resume_every == 0):
                sampler.admit(a)
            tokens.append(int(sampler.sample(logits.copy(), rows_of([a]))[0]))
        return tokens

    unpenalised = [int(x[0].argmax()) for x in steps]
    assert decode(0) == decode(7) == decode(1)
    assert decode(0)[len(PROMPT) :] != unpenalised, "penalties did nothing"


def test_drafts_are_seen_as_if_they_were_accepted():
    params = PARAMS["all"]
    drafts = (8, 20, 8)
    base = admission(0, PROMPT + OUTPUT, len(PROMPT), seed=3, **params)
    logits = logits_of(4, VOCAB, 2)
    verified = edited([base], logits, {0: drafts})
    tokens = run([base], logits, {0: drafts})
    for j in range(4):
        plain = admission(0, PROMPT + OUTPUT + drafts[:j], len(PROMPT), seed=3, **params)
        np.testing.assert_array_equal(verified[j], edited([plain], logits[j : j + 1])[0])
        assert tokens[j] == run([plain], logits[j : j + 1])[0]


def test_drafts_leave_no_trace_in_penalties():
    a = admission(0, PROMPT, len(PROMPT), frequency_penalty=2.0, temperature=0.0)
    sampler, logits = Sampler(4), logits_of(3, VOCAB)
    sampler.admit(a)
    best = int(logits[0].argmax())
    sampler.sample(logits.copy(), rows_of([a], {0: (best, best)}))
    after = sampler.sample(logits[:1].copy(), rows_of([a]))
    assert after == run([a], logits[:1]) == best


def test_seeded_draws_do_not_depend_on_neighbours_or_slots():
    logits = logits_of(1, VOCAB, 1)
    a = admission(0, PROMPT, len(PROMPT), seed=2**61 + 5)
    alone = run([a], logits)[0]
    for neighbours in (1, 7, 31):
        others = [admission(i + 1, (1, 2, 3), 2, seed=i, top_k=4) for i in range(neighbours)]
        moved = admission(40, PROMPT, len(PROMPT), seed=2**61 + 5)
        batch = [*others[: neighbours // 2], moved, *others[neighbours // 2 :]]
        assert run(batch, np.repeat(logits, len(batch), 0))[neighbours // 2] == alone


def test_top_k_1_is_greedy():
    logits = np.round(logits_of(50, VOCAB), 1)
    ones = [admission(i, PROMPT, len(PROMPT), seed=i, top_k=1) for i in range(50)]
    assert (run(ones, logits) == sample.greedy(logits)).all()


def test_grammar_masks_reach_the_right_row_and_position():
    admissions = [admission(i, PROMPT, len(PROMPT), temperature=0.0) for i in (4, 9)]
    extra = {9: (1, 2)}
    logits = logits_of(4, VOCAB)
    words = -(-VOCAB // 32)

    def bitmap(allowed: int) -> bytes:
        return (1 << allowed).to_bytes(words * 4, "little")

    masks = StepMasks(plan_id=0, rows=((9, 1), (4, 0), (33, 0)), bits=bitmap(17) + bitmap(96) + bitmap(3))
    got = run(admissions, logits, extra, masks)
    free = sample.greedy(logits)
    assert got.tolist() == [96, free[1], 17, free[3]]


def test_masks_of_one_row_leave_seeded_neighbours_alone():
    admissions = [admission(i, PROMPT, len(PROMPT), seed=i) for i in range(6)]
    logits = logits_of(6, VOCAB)
    words = -(-VOCAB // 32)
    masks = StepMasks(plan_id=0, rows=((2, 0),), bits=(0b110).to_bytes(words * 4, "little"))
    got, free = run(admissions, logits, None, masks), run(admissions, logits)
    assert got[2] in (1, 2)
    assert np.delete(got, 2).tolist() == np.delete(free, 2).tolist()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_mask_excludes_exactly_what_it_says(share):
    admissions = [admission(i, PROMPT, len(PROMPT), temperature=0.0) for i in range(3)]
    allowed = np.random.default_rng(7).random((3, VOCAB)) < share
    allowed[:, 1] = True
    logits = logits_of(3, VOCAB)
    words = -(-VOCAB // 32)
    bits = b"".join(np.packbits(row, bitorder="little").tobytes().ljust(words * 4, b"\0") for row in allowed)
    got = run(admissions, logits, None, StepMasks(plan_id=0, rows=((0, 0), (1, 0), (2, 0)), bits=bits))
    assert got.tolist() == sample.greedy(np.where(allowed, logits, -np.inf)).tolist()


def test_a_grammar_at_its_end_beats_min_tokens():
    admissions = [admission(0, PROMPT, len(PROMPT), min_tokens=5, eos=(9,), temperature=0.0)]
    words = -(-VOCAB // 32)
    masks = StepMasks(plan_id=0, rows=((0, 0),), bits=(1 << 9).to_bytes(words * 4, "little"))
    assert run(admissions, logits_of(1, VOCAB), None, masks).tolist() == [9]
    assert run(admissions, logits_of(1, VOCAB), None, None).tolist() != [9]
