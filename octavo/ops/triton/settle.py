"""The end of a step on the device: which samples count, and what the slots know afterwards.

One launch. The same rules as runner/commit.py without drafts.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from octavo.core.messages import EOS, LENGTH, STOP

_EOS, _STOP, _LENGTH = tl.constexpr(EOS), tl.constexpr(STOP), tl.constexpr(LENGTH)


@triton.jit(do_not_specialize=["rows"])
def _settle(
    samples, owners, start, live, sampled, place,  # of the step [rows]
    history, history_stride, ends, words,  # of the slots
    computed, known, done, may_sample, earliest, last,  # of the slots [slots]
    out, out_stride, rows, slots, R: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0) * R + tl.arange(0, R)
    inside = r < rows
    slot = tl.load(owners + r, mask=inside, other=0)
    count = tl.load(live + r, mask=inside, other=0)
    active = inside & (count > 0)
    took = active & (tl.load(sampled + r, mask=inside, other=0) != 0)
    token = tl.load(samples + r, mask=took, other=0).to(tl.int32)
    where = tl.load(place + r, mask=took, other=0).to(tl.int32)
    reached = tl.load(start + r, mask=active, other=0) + count

    far = slot.to(tl.int64)
    may_end = took & (where >= tl.load(earliest + slot, mask=took, other=0))
    word = far * words + token // 32
    bit = token % 32
    eos = (tl.load(ends + word, mask=may_end, other=0) >> bit) & 1
    stop = (tl.load(ends + slots.to(tl.int64) * words + word, mask=may_end, other=0) >> bit) & 1
    full = took & (where >= tl.load(last + slot, mask=took, other=0))
    why = tl.where(eos != 0, _EOS, tl.where(stop != 0, _STOP, tl.where(full, _LENGTH, 0)))
    scored = active & (tl.load(may_sample + slot, mask=active, other=1) == 0)
    scored = scored & (reached >= tl.load(known + slot, mask=active, other=0))
    why = tl.where(scored, _LENGTH, why)

    tl.store(history + far * history_stride + where, token, mask=took)
    tl.store(known + slot, where + 1, mask=took)
    tl.store(computed + slot, reached, mask=active)
    tl.store(done + slot, 1, mask=active & (why != 0))
    tl.store(out + r, token, mask=inside)
    tl.store(out + out_stride + r, took.to(tl.int32), mask=inside)
    tl.store(out + 2 * out_stride + r, why, mask=inside)


def settle(
    samples: Tensor,
    step: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    history: Tensor,
    ends: Tensor,
    columns: tuple[Tensor, ...],
    out: Tensor,
) -> None:
    """Writes samples [rows] into the slots and the outcome into out [3, most rows] int32: token, count
    (0 or 1) and StepResult.finished of each row.

    `step` = owners, start, live, sampled, place [rows]; `history` [slots, length]; `ends` [2, slots,
    words] bitmaps of eos and stop ids; `columns` = computed, known, done, samples, earliest, last [slots].
    """
    rows, slots = samples.shape[0], history.shape[0]
    _settle[(triton.cdiv(rows, 128),)](
        samples, *step, history, history.stride(0), ends, ends.shape[2], *columns,
        out, out.stride(0), rows, slots, R=128,
    )  # fmt: skip
