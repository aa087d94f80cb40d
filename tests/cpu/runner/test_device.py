"""Steps on a tiny model against full recomputation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from octavo.core.errors import Unsupported
from octavo.core.messages import EOS, LENGTH, RUNNING, STOP, Admission, Copy, Work
from octavo.core.request import Sampling
from tests.cpu.runner.tiny import VOCAB, greedy_decode, rig, tokens_of, whole_logits

PROMPT = [5, 17, 3, 44, 8, 8, 29, 60, 1, 12, 33]
OTHER = [7, 7, 50, 2, 19]
GREEDY = Sampling(temperature=0.0, max_tokens=40)


def admission(slot: int, tokens: list[int], prompt: int | None = None, start: int = 0, **given) -> Admission:
    sampling = given.pop("sampling", GREEDY)
    return Admission(
        slot=slot, tokens=tuple(tokens), prompt=prompt or len(tokens), start=start, seed=given.pop("seed", 1),
        sampling=sampling, **given,
    )  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 3, 4, 100])
def test_greedy_tokens_equal_full_recomputation(chunk):
    r = rig()
    want = greedy_decode(r.model, r.backend, PROMPT, 12)
    assert r.run(PROMPT, chunk=chunk, temperature=0.0, max_tokens=12) == want
    assert len(set(want)) > 3, "the tiny model only repeats itself"


def test_mixed_steps_of_chunks_decodes_and_admissions():
    r = rig()
    one, two = greedy_decode(r.model, r.backend, PROMPT, 4), greedy_decode(r.model, r.backend, OTHER, 3)
    a = r.step(Work(2, 0, 8, 0, 0), admit=(admission(2, PROMPT),))
    assert (tokens_of(a), a.finished) == ([[]], b"\0")
    b = r.step(Work(2, 8, 3, 0, 1), Work(5, 0, 2, 0, 0), admit=(admission(5, OTHER),))
    c = r.step(Work(5, 2, 3, 0, 1), Work(2, 11, 1, 0, 1))
    d = r.step(Work(5, 5, 1, 0, 1), Work(2, 12, 1, 0, 1))
    e = r.step(same=True, blocks=((5, 0, 2, (70, 71)), (2, 0, 3, (72, 73))))
    assert tokens_of(b) == [[one[0]], []]
    assert tokens_of(c) == [[two[0]], [one[1]]]
    assert tokens_of(d) == [[two[1]], [one[2]]]
    assert tokens_of(e) == [[two[2]], [one[3]]]
    assert (b.stats.tokens, b.stats.rows, e.stats.tokens) == (5, 2, 2)


def test_a_plan_without_work_is_legal_and_starts_the_table_afresh():
    r = rig()
    r.step(Work(0, 0, 5, 0, 1), admit=(admission(0, OTHER),))
    empty = r.step()
    assert (empty.tokens, empty.counts, empty.finished) == (b"", b"", b"")
    assert tokens_of(r.step(same=True)) == []


@pytest.mark.parametrize(("ends", "code"), [("eos", EOS), ("stop_token_ids", STOP)])
def test_a_done_row_runs_empty_until_it_is_released(ends, code):
    r = rig()
    want = greedy_decode(r.model, r.backend, PROMPT, 8)
    last = want[2]
    sampling = Sampling(temperature=0.0, max_tokens=40, **{ends: (last,)})
    cut = want[: want.index(last) + 1]
    steps = [r.step(Work(1, 0, 11, 0, 1), admit=(admission(1, PROMPT, sampling=sampling),))]
    for i in range(6):
        steps.append(r.step(Work(1, 11 + i, 1, 0, 1)))
    got = [token for s in steps for token in tokens_of(s)[0]]
    assert got == cut
    reasons = [s.finished[0] for s in steps]
    assert reasons == [RUNNING] * (len(cut) - 1) + [code] + [RUNNING] * (7 - len(cut))
    assert [s.stats.tokens for s in steps[len(cut) :]] == [0] * (7 - len(cut))


def test_a_done_row_writes_nothing_beside_its_neighbours():
    r = rig()
    one, two = greedy_decode(r.model, r.backend, PROMPT, 1), greedy_decode(r.model, r.backend, OTHER, 6)
    short = Sampling(temperature=0.0, max_tokens=1)
    first = r.step(
        Work(0, 0, 11, 0, 1), Work(1, 0, 5, 0, 1),
        admit=(admission(0, PROMPT, sampling=short), admission(1, OTHER)),
    )  # fmt: skip
    assert (tokens_of(first), first.finished[0]) == ([one, two[:1]], LENGTH)
    # the done row's page now belongs to its neighbour: a write would be seen
    r.pages[0] = []
    for i in range(1, 6):
        page = r.pages[1][1] if len(r.pages[1]) > 1 else r.used
        again = r.step(
            Work(0, 10 + i, 1, 0, 1), Work(1, 4 + i, 1, 0, 1), blocks=((0, 0, 2, (page, page)),), upto={0: 0}
        )
        assert tokens_of(again) == [[], [two[i]]]


def test_min_tokens_hold_the_end_back():
    r = rig()
    want = greedy_decode(r.model, r.backend, PROMPT, 4)
    got = r.run(PROMPT, temperature=0.0, max_tokens=10, min_tokens=3, eos=(want[0],))
    assert len(got) >= 3 and want[0] not in got[:2]
    assert r.run(PROMPT, temperature=0.0, max_tokens=10, eos=(want[0],)) == want[:1]


def test_the_longest_context_ends_a_row():
    r = rig()
    got = r.run(PROMPT, temperature=0.0, max_tokens=1000)
    assert len(PROMPT) + len(got) == 96


def test_resuming_a_preempted_request_changes_nothing():
    sampling = dict(
        temperature=0.9, top_p=0.9, repetition_penalty=1.2, frequency_penalty=0.4, max_tokens=20, min_tokens=3
    )
    r = rig()
    whole = r.run(PROMPT, seed=77, **sampling)
    for cut in (1, 6, 13):
        fresh = rig()
        a = admission(3, PROMPT + whole[:cut], len(PROMPT), seed=77, sampling=Sampling(**sampling))
        known, out = len(PROMPT) + cut, list(whole[:cut])
        step = fresh.step(Work(3, 0, known, 0, 1), admit=(a,))
        out += tokens_of(step)[0]
        while not step.finished[0]:
            step = fresh.step(Work(3, known, 1, 0, 1))
            known += 1
            out += tokens_of(step)[0]
        assert out == whole


def test_drafts_are_verified_in_one_step():
    r = rig()
    want = greedy_decode(r.model, r.backend, PROMPT, 8)
    r.step(Work(0, 0, 11, 0, 1), admit=(admission(0, PROMPT),))
    wrong = (want[3] + 1) % VOCAB
    step = r.step(Work(0, 11, 4, 3, 4), feed=((0, 12, (want[1], want[2], wrong)),))
    assert tokens_of(step) == [want[1:4]]
    assert (step.stats.drafts, step.stats.accepted) == (3, 2)
    # the host still believes all four positions count: its start is two too high
    step = r.step(Work(0, 15, 1, 0, 1))
    assert tokens_of(step) == [[want[4]]]
    step = r.step(Work(0, 16, 3, 2, 3), feed=((0, 16, tuple(want[5:7])),))
    assert tokens_of(step) == [want[5:8]]


def test_seeded_sampling_with_drafts_gives_the_same_tokens():
    sampling = dict(temperature=1.0, top_k=20, presence_penalty=0.5, max_tokens=12)
    whole = rig().run(PROMPT, seed=5, **sampling)
    r = rig()
    r.step(Work(0, 0, 11, 0, 1), admit=(admission(0, PROMPT, seed=5, sampling=Sampling(**sampling)),))
    out, known = [whole[0]], 12
    while len(out) < 12:
        left = min(2, 11 - len(out))
        drafts = [*whole[len(out) : len(out) + left]]
        if len(out) % 3 == 0 and drafts:
            drafts[-1] = (drafts[-1] + 1) % VOCAB
        step = r.step(Work(0, known - 1, 1 + left, left, 1 + left), feed=((0, known, tuple(drafts)),))
        out += tokens_of(step)[0]
        known = 11 + len(out)
    assert out == whole
    assert step.finished[0] == LENGTH


def test_an_end_among_accepted_drafts_cuts_them():
    r = rig()
    want = greedy_decode(r.model, r.backend, PROMPT, 6)
    sampling = Sampling(temperature=0.0, max_tokens=40, stop_token_ids=(want[2],))
    r.step(Work(0, 0, 11, 0, 1), admit=(admission(0, PROMPT, sampling=sampling),))
    step = r.step(Work(0, 11, 4, 3, 4), feed=((0, 12, tuple(want[1:4])),))
    assert tokens_of(step) == [want[1 : want.index(want[2]) + 1]]
    assert step.finished[0] == STOP
    assert tokens_of(r.step(Work(0, 15, 1, 0, 1))) == [[]]


def test_a_fork_copies_the_partial_page_and_both_go_on():
    r = rig()
    parent = Sampling(temperature=1.0, max_tokens=8)
    alone = [rig().run(PROMPT, seed=s, temperature=1.0, max_tokens=8) for s in (1, 2)]
    assert alone[0] != alone[1]
    out: list[list[int]] = [[], []]
    step = r.step(Work(0, 0, 11, 0, 1), admit=(admission(0, PROMPT, sampling=parent),))
    out[0] += tokens_of(step)[0]
    # positions 0..7 are shared, the third page (8..10) is copied; the last position runs again
    shared, last = r.pages[0][:2], r.pages[0][2]
    copy = Copy(9, "cow", 0, last, 60)
    r.pages[1] = [*shared, 60]
    step = r.step(
        Work(0, 11, 1, 0, 1), Work(1, 10, 1, 0, 1),
        admit=(admission(1, PROMPT, start=10, seed=2, sampling=parent, fork=0),),
        blocks=((1, 0, 0, (*shared, 60)),), copies=(copy,),
    )  # fmt: skip
    assert step.copied == (9,)
    for i, tokens in enumerate(tokens_of(step)):
        out[i] += tokens
    while len(out[1]) < 8:
        step = r.step(*(Work(i, 10 + len(out[i]), 1, 0, 1) for i in (0, 1)))
        for i, tokens in enumerate(tokens_of(step)):
            out[i] += tokens
    assert out == alone


def test_copies_follow_each_other_in_order():
    r = rig()
    caches = r.device._caches
    for i, tensor in enumerate(caches._pool):
        tensor[10], tensor[11], tensor[12] = i + 1.0, i + 2.0, i + 3.0
    caches.copy([Copy(0, "cow", 0, 10, 11), Copy(1, "cow", 0, 11, 12), Copy(2, "cow", 0, 12, 13)])
    for i, tensor in enumerate(caches._pool):
        assert torch.equal(tensor[13], torch.full_like(tensor[13], i + 1.0))
    with pytest.raises(Unsupported):
        caches.copy([Copy(0, "out", 0, 1, 2)])


def test_masks_limit_the_sample():
    r = rig()
    words = -(-VOCAB // 32)
    bits = ((1 << 40) | (1 << 13)).to_bytes(words * 4, "little")
    logits = whole_logits(r.model, r.backend, PROMPT)[-1]
    want = 40 if logits[40] > logits[13] else 13
    step = r.step(
        Work(0, 0, 11, 0, 1), Work(1, 0, 5, 0, 1),
        admit=(admission(0, PROMPT, grammar=True), admission(1, OTHER)), masks=(((0, 0),), bits),
    )  # fmt: skip
    assert tokens_of(step) == [[want], greedy_decode(r.model, r.backend, OTHER, 1)]


def test_logprobs_are_the_models_own():
    r = rig()
    biased = Sampling(temperature=0.0, max_tokens=4, logprobs=3, logit_bias=((9, 50.0),))
    whole = Sampling(temperature=1.0, max_tokens=4, logprobs=-1)
    step = r.step(
        Work(0, 0, 11, 0, 1), Work(1, 0, 2, 0, 0), Work(2, 0, 5, 0, 1), Work(3, 0, 5, 0, 1),
        admit=(
            admission(0, PROMPT, sampling=biased), admission(1, OTHER, sampling=biased),
            admission(2, OTHER), admission(3, OTHER, sampling=whole),
        ),
    )  # fmt: skip
    assert [row for row, _ in step.logprobs] == [0, 3]
    for (_, (entry,)), prompt, row in zip(step.logprobs, (PROMPT, OTHER), (0, 3), strict=True):
        raw = torch.from_numpy(whole_logits(r.model, r.backend, prompt)[-1]).log_softmax(-1)
        assert entry.token == tokens_of(step)[row][0]
        assert entry.logprob == pytest.approx(float(raw[entry.token]), abs=1e-4)
        assert entry.rank == 1 + int((raw > raw[entry.token]).sum())
        assert len(entry.top_ids) == (3 if row == 0 else VOCAB)
        assert list(entry.top_logprobs) == pytest.approx(
            raw.sort(descending=True).values[: len(entry.top_ids)].tolist(), abs=1e-4
        )
    assert step.logprobs[0][1][0].token == 9


def test_logprobs_of_named_tokens():
    """Each row those it names, before any stage; a neighbour's alternatives are its own."""
    r = rig()
    named = Sampling(
        temperature=0.0, max_tokens=4, logprobs=0, logprob_token_ids=(5, 50, 9), logit_bias=((9, 50.0),)
    )
    others = Sampling(temperature=0.0, max_tokens=4, logprobs=0, logprob_token_ids=(1,))
    plain = Sampling(temperature=0.0, max_tokens=4, logprobs=2)
    step = r.step(
        Work(0, 0, 11, 0, 1), Work(1, 0, 5, 0, 1), Work(2, 0, 5, 0, 1),
        admit=(
            admission(0, PROMPT, sampling=named), admission(1, OTHER, sampling=others),
            admission(2, OTHER, sampling=plain),
        ),
    )  # fmt: skip
    assert [row for row, _ in step.logprobs] == [0, 1, 2]
    (first,), (second,), (third,) = (entries for _, entries in step.logprobs)
    for entry, prompt in ((first, PROMPT), (second, OTHER)):
        raw = torch.from_numpy(whole_logits(r.model, r.backend, prompt)[-1]).log_softmax(-1)
        ids = list(entry.top_ids)
        assert list(entry.top_logprobs) == pytest.approx(raw[ids].tolist(), abs=1e-4)
        assert list(entry.top_ranks) == [1 + int((raw > raw[id]).sum()) for id in ids]
    assert (first.token, first.top_ids, second.top_ids) == (9, (5, 50, 9), (1,))
    assert len(third.top_ids) == 2 and third.top_ranks == ()


def test_logprobs_of_accepted_drafts():
    r = rig()
    want = greedy_decode(r.model, r.backend, PROMPT, 4)
    sampling = Sampling(temperature=0.0, max_tokens=40, logprobs=0)
    r.step(Work(0, 0, 11, 0, 1), admit=(admission(0, PROMPT, sampling=sampling),))
    step = r.step(Work(0, 11, 4, 3, 4), feed=((0, 12, (want[1], want[2], VOCAB - 1)),))
    ((row, entries),) = step.logprobs
    assert (row, [e.token for e in entries]) == (0, tokens_of(step)[0])
    assert [e.rank for e in entries] == [1] * len(entries)


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("max_tokens", [0, 2])
def test_prompt_logprobs_in_chunks_equal_the_whole(chunk, max_tokens):
    r = rig()
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens, prompt_logprobs=2)
    raw = torch.from_numpy(whole_logits(r.model, r.backend, PROMPT)).log_softmax(-1)
    admit, at, found, last = (admission(0, PROMPT, sampling=sampling),), 0, {}, None
    while at < len(PROMPT):
        count = min(chunk, len(PROMPT) - at)
        last = r.step(Work(0, at, count, 0, count), admit=admit)
        admit, at = (), at + count
        for slot, first, entries in last.prompt_logprobs:
            assert slot == 0
            found.update({first + i: entry for i, entry in enumerate(entries)})
    assert sorted(found) == list(range(1, len(PROMPT)))
    for position, entry in found.items():
        scores = raw[position - 1]
        assert entry.token == PROMPT[position]
        assert entry.logprob == pytest.approx(float(scores[entry.token]), abs=1e-4)
        assert entry.rank == 1 + int((scores > scores[entry.token]).sum())
        assert list(entry.top_ids) == scores.sort(descending=True, stable=True).indices[:2].tolist()
    assert last is not None
    if max_tokens == 0:
        assert (tokens_of(last), last.finished[0]) == ([[]], LENGTH)
    else:
        assert tokens_of(last) == [greedy_decode(r.model, r.backend, PROMPT, 1)]


def test_slices_of_prompt_logprobs_join_without_a_seam():
    r = rig()
    feature = r.device._features[1]
    results = []
    for rows in (512, 3):
        feature._slice = rows
        sampling = Sampling(temperature=0.0, max_tokens=0, prompt_logprobs=1)
        results.append(
            r.step(Work(0, 0, 11, 0, 11), admit=(admission(0, PROMPT, sampling=sampling),)).prompt_logprobs
        )
        r.step(release=(0,))
    (_, _, whole), (_, _, cut) = results[0][0], results[1][0]
    assert [e.token for e in whole] == [e.token for e in cut]
    np.testing.assert_allclose([e.logprob for e in whole], [e.logprob for e in cut], atol=1e-5)


def test_many_stop_ids_widen_the_table():
    r = rig()
    want = greedy_decode(r.model, r.backend, PROMPT, 3)
    others = tuple(t for t in range(VOCAB) if t not in want)
    assert r.run(PROMPT, temperature=0.0, max_tokens=3, stop_token_ids=others) == want
    assert (
        r.run(PROMPT, temperature=0.0, max_tokens=3, stop_token_ids=(*others, want[1]))
        == want[: want.index(want[1]) + 1]
    )


def test_layers_with_and_without_a_window_share_one_pool():
    r = rig(
        architectures=["Qwen2ForCausalLM"], use_sliding_window=True, sliding_window=6, max_window_layers=1,
    )  # fmt: skip
    assert len(r.device._slots.tables) == 2
    assert len(r.device._caches._pool) == 1
    a = admission(0, PROMPT)
    pages = ((0, 0, 0, (1, 2, 3, 4, 5)), (0, 1, 0, (6, 7, 8, 9, 10)))
    got = tokens_of(r.step(Work(0, 0, 11, 0, 1), admit=(a,), blocks=pages, upto={0: 0}))[0]
    for i in range(5):
        got += tokens_of(r.step(Work(0, 11 + i, 1, 0, 1), upto={0: 0}))[0]
    assert got == greedy_decode(r.model, r.backend, PROMPT, 6)
