"""Edits of the logits in place, as the stages of octavo/sampling, for every row of a batch at once.

Lists of ids of all slots lie end to end; `ranges` [slots, 8] int32 says where each slot's begin and how
many they are. Penalties are stateless: each step counts the row's history anew.
"""

from __future__ import annotations

import triton
import triton.language as tl

from octavo.ops.triton.sample_noise import divided
from octavo.ops.triton.sample_scan import (
    FREQUENCY,
    PRESENCE,
    PROMPT,
    REPETITION,
    UNTIL,
    WORDS,
    float_of,
)

RANGES = tl.constexpr(8)
BIAS, BANNED, ENDS, PHRASES = tl.constexpr(0), tl.constexpr(2), tl.constexpr(4), tl.constexpr(6)
IN_PROMPT = tl.constexpr(1 << 30)  # beside the count of a token in the output


@triton.jit
def keep_allowed(
    logits, stride, which, owners, bitmaps, VOCAB: tl.constexpr, BY_SLOT: tl.constexpr, STEP: tl.constexpr
):
    """Excludes what a row's bitmap lacks. `which` [rows], or [slots]: a line of `bitmaps`, -1 for none.
    Grid (steps of the vocabulary, rows)."""
    row = tl.program_id(1).to(tl.int64)
    at = row
    if BY_SLOT:
        at = tl.load(owners + row).to(tl.int64)
    line = tl.load(which + at).to(tl.int64)
    if line >= 0:
        token = tl.program_id(0) * STEP + tl.arange(0, STEP)
        real = token < VOCAB
        bits = tl.load(bitmaps + line * ((VOCAB + 31) // 32) + token // 32, mask=real, other=0)
        excluded = real & (((bits >> (token % 32)) & 1) == 0)
        tl.store(logits + row * stride + token, float("-inf"), mask=excluded)


@triton.jit
def _exclude(line, ids, first, count, STEP: tl.constexpr):
    lane = tl.arange(0, STEP)
    at = 0
    while at < count:
        real = at + lane < count
        tl.store(line + tl.load(ids + first + at + lane, mask=real, other=0), float("-inf"), mask=real)
        at += STEP
    tl.debug_barrier()


@triton.jit
def _exclude_phrases(line, phrases, ids, first, count, history, prompt, position, STEP: tl.constexpr):
    """A phrase [start, length] in ids: its last token, where the output ends in all before it."""
    lane = tl.arange(0, STEP)
    at = 0
    while at < count:
        start = tl.load(phrases + (first + at) * 2)
        lead = tl.load(phrases + (first + at) * 2 + 1) - 1
        differ = tl.where(lead <= position - prompt, 0, 1)
        place = 0
        while (place < lead) & (differ == 0):
            real = place + lane < lead
            word = tl.load(ids + start + place + lane, mask=real, other=0)
            said = tl.load(history + position - lead + place + lane, mask=real, other=0)
            differ = tl.max((word != said).to(tl.int32), 0)
            place += STEP
        tl.store(line + tl.load(ids + start + lead), float("-inf"), mask=differ == 0)
        at += 1
    tl.debug_barrier()


@triton.jit
def _anything(line, VOCAB: tl.constexpr, STEP: tl.constexpr):
    """Whether the row has a token left: nearly always the first look says so."""
    lane = tl.arange(0, STEP)
    top = tl.max(tl.full([STEP], float("-inf"), tl.float32), 0)
    start = 0
    while (start < VOCAB) & (top == float("-inf")):
        x = tl.load(line + start + lane, mask=start + lane < VOCAB, other=float("-inf"))
        top = tl.max(x, 0)
        start += STEP
    return top > float("-inf")


@triton.jit
def _exclude_ends(line, ids, before, first, count, VOCAB: tl.constexpr, STEP: tl.constexpr):
    """Unless nothing else is left. `before` keeps the logits, beside their ids."""
    lane = tl.arange(0, STEP)
    at = 0
    while at < count:
        real = at + lane < count
        x = tl.load(line + tl.load(ids + first + at + lane, mask=real, other=0), mask=real, other=0.0)
        tl.store(before + first + at + lane, x, mask=real)
        at += STEP
    tl.debug_barrier()
    _exclude(line, ids, first, count, STEP)
    if (_anything(line, VOCAB, STEP) == 0) & (count > 0):
        at = 0
        while at < count:
            real = at + lane < count
            id = tl.load(ids + first + at + lane, mask=real, other=0)
            tl.store(line + id, tl.load(before + first + at + lane, mask=real), mask=real)
            at += STEP
    tl.debug_barrier()


@triton.jit
def edit_lists(
    logits, stride, owners, positions, words, ranges, ids, values, phrases, history, length,
    VOCAB: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """bad_words, min_tokens, logit_bias, in this order. Grid (rows). `values` holds the biases, and room for
    what min_tokens may have to put back."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(owners + row).to(tl.int64)
    position = tl.load(positions + row).to(tl.int32)
    mine, line = ranges + slot * RANGES, logits + row * stride
    past, prompt = history + slot * length, tl.load(words + slot * WORDS + PROMPT)
    _exclude(line, ids, tl.load(mine + BANNED), tl.load(mine + BANNED + 1), STEP)
    _exclude_phrases(
        line, phrases, ids, tl.load(mine + PHRASES), tl.load(mine + PHRASES + 1), past, prompt, position, STEP
    )
    if position < tl.load(words + slot * WORDS + UNTIL):
        _exclude_ends(line, ids, values, tl.load(mine + ENDS), tl.load(mine + ENDS + 1), VOCAB, STEP)
    first, count = tl.load(mine + BIAS), tl.load(mine + BIAS + 1)
    lane = tl.arange(0, STEP)
    at = 0
    while at < count:
        real = at + lane < count
        to = line + tl.load(ids + first + at + lane, mask=real, other=0)
        bias = tl.load(values + first + at + lane, mask=real, other=0.0)
        tl.store(to, tl.load(to, mask=real, other=0.0) + bias, mask=real)
        at += STEP


@triton.jit
def _penalties(words, slot):
    """(repetition, frequency, presence, whether any of them does something)."""
    r, f = float_of(words, slot, REPETITION), float_of(words, slot, FREQUENCY)
    p = float_of(words, slot, PRESENCE)
    return r, f, p, (r != 1.0) | (f != 0.0) | (p != 0.0)


@triton.jit
def count_history(
    counts, owners, positions, words, history, length, VOCAB: tl.constexpr, PARTS: tl.constexpr,
    STEP: tl.constexpr,
):  # fmt: skip
    """Counts [rows, VOCAB], zero before: how often the output has a token, and IN_PROMPT.
    Grid (PARTS, rows)."""
    row = tl.program_id(1).to(tl.int64)
    slot = tl.load(owners + row).to(tl.int64)
    r, _f, _p, any = _penalties(words, slot)
    prompt = tl.load(words + slot * WORDS + PROMPT)
    marked = tl.where(r != 1.0, prompt, 0)  # only repetition looks at the prompt
    upto = tl.where(any, tl.load(positions + row).to(tl.int32), 0)
    at = tl.program_id(0) * STEP
    while at < upto:
        place = at + tl.arange(0, STEP)
        real = place < upto
        to = counts + row * VOCAB + tl.load(history + slot * length + place, mask=real, other=0)
        tl.atomic_add(to, 1, mask=real & (place >= prompt), sem="relaxed")
        tl.atomic_or(to, IN_PROMPT, mask=real & (place < marked), sem="relaxed")
        at += PARTS * STEP


@triton.jit
def penalise(
    logits, stride, counts, owners, positions, words, history, length, VOCAB: tl.constexpr,
    PARTS: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Applies the counts and leaves them zero: whoever takes a token's count edits its logit.
    Grid (PARTS, rows)."""
    row = tl.program_id(1).to(tl.int64)
    slot = tl.load(owners + row).to(tl.int64)
    r, f, p, any = _penalties(words, slot)
    upto = tl.where(any, tl.load(positions + row).to(tl.int32), 0)
    at = tl.program_id(0) * STEP
    while at < upto:
        place = at + tl.arange(0, STEP)
        real = place < upto
        token = tl.load(history + slot * length + place, mask=real, other=0)
        seen = tl.atomic_xchg(counts + row * VOCAB + token, 0, mask=real, sem="relaxed")
        real &= seen != 0
        times = seen % IN_PROMPT
        to = logits + row * stride + token
        x = tl.load(to, mask=real, other=0.0)
        x = tl.where(x > 0.0, divided(x, r), x * r)
        x = x - f * times.to(tl.float32)
        x = x - p * (times > 0).to(tl.float32)
        tl.store(to, x, mask=real)
        at += PARTS * STEP
