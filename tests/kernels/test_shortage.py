"""Memory runs out in the middle: only the rows that it cannot be found for are lost, and whatever a neighbour
is told is what it would be told anyway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from octavo.core.messages import NO_MEMORY, RUNNING, Copy, Work
from octavo.core.request import Sampling
from octavo.runner.cuda import upload
from octavo.runner.cuda.device import CudaDevice
from octavo.runner.cuda.logprobs import Logprobs
from octavo.runner.cuda.shortage import found_memory, in_pieces
from tests.cpu.runner.test_cuda_rows import rows_of
from tests.cpu.runner.test_device import GREEDY, OTHER, PROMPT, admission
from tests.cpu.runner.tiny import LENGTH, Rig, greedy_decode, tokens_of
from tests.kernels.cuda_rig import cuda_rig

PENALISED = Sampling(temperature=0.0, max_tokens=40, repetition_penalty=1.3)
SCORED = Sampling(temperature=0.0, max_tokens=40, logprobs=2)


def refuse(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: Callable[..., bool], times: int = 1 << 30
) -> list[Any]:
    """owner.name finds no memory where `when` says so, the first `times` times; returns those calls."""
    real, refused = getattr(owner, name), []

    def short_of_memory(*args: Any, **named: Any) -> Any:
        if when(*args, **named) and len(refused) < times:
            refused.append(args)
            raise torch.OutOfMemoryError("nothing left")
        return real(*args, **named)

    monkeypatch.setattr(owner, name, short_of_memory)
    return refused


def always(*args: Any, **named: Any) -> bool:
    return True


def covers(row: int) -> Callable[..., bool]:
    """A launch of the model that computes this row of the step."""
    return lambda device, bounds, first=0, whole=False, host=None: first <= row < first + bounds.rows


def wanted(r: Rig, prompt: list[int], count: int) -> list[int]:
    return greedy_decode(r.model, r.backend, prompt, count)


def three(r: Rig, *how: Sampling) -> Any:
    """The first step of three requests: PROMPT, OTHER and PROMPT again."""
    first, second, third = how or (GREEDY,) * 3
    return r.step(
        Work(0, 0, 11, 0, 1), Work(1, 0, 5, 0, 1), Work(2, 0, 11, 0, 1),
        admit=(
            admission(0, PROMPT, sampling=first), admission(1, OTHER, sampling=second),
            admission(2, PROMPT, sampling=third),
        ),
    )  # fmt: skip


def test_a_second_try_is_enough() -> None:
    tries: list[int] = []

    def launch() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("nothing left")

    assert found_memory(launch) and len(tries) == 2


def test_a_range_is_halved_until_its_parts_fit() -> None:
    def launch(a: int, b: int) -> int:
        if b - a > 3 or a <= 5 < b:
            raise torch.OutOfMemoryError("nothing left")
        return b - a

    parts = list(in_pieces(2, 12, launch))
    assert parts == [(2, 4, 2), (4, 5, 1), (5, 6, None), (6, 7, 1), (7, 9, 2), (9, 12, 3)]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_row_without_memory_is_lost_alone(monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    r = cuda_rig()
    one, two = wanted(r, PROMPT, 3), wanted(r, OTHER, 3)
    want = [one, two, one]
    with monkeypatch.context() as m:
        refused = refuse(m, CudaDevice, "_compute", covers(lost))
        step = three(r)
    assert refused
    codes = [RUNNING] * 3
    codes[lost] = NO_MEMORY
    assert list(step.finished) == codes
    want[lost] = []
    assert tokens_of(step) == [w[:1] for w in want]
    for i in (1, 2):  # the step in flight has the lost row still
        step = r.step(Work(0, 10 + i, 1, 0, 1), Work(1, 4 + i, 1, 0, 1), Work(2, 10 + i, 1, 0, 1))
        assert tokens_of(step) == [w[i : i + 1] for w in want] and not any(step.finished)
    r.step(release=(lost,))
    assert r.run(OTHER, slot=lost, temperature=0.0, max_tokens=3) == two


def test_without_any_memory_every_row_is_lost_and_the_device_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for owner, name in ((CudaDevice, "_compute"), (CudaDevice, "_choose")):
        r = cuda_rig()
        with monkeypatch.context() as m:
            refuse(m, owner, name, always)
            step = three(r)
        assert list(step.finished) == [NO_MEMORY] * 3 and tokens_of(step) == [[], [], []]
        r.step(release=(0, 1, 2))
        assert r.run(PROMPT, temperature=0.0, max_tokens=4) == wanted(r, PROMPT, 4)


def test_the_beginning_of_a_long_row_takes_its_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    r = cuda_rig()
    computed = refuse(
        monkeypatch, CudaDevice, "_compute", lambda d, b, *_: b.tokens > 1 or b.max_context == 1
    )
    step = r.step(Work(0, 0, 11, 0, 1), admit=(admission(0, PROMPT),))
    assert list(step.finished) == [NO_MEMORY]
    contexts = {bounds.max_context for _, bounds, *_ in computed}
    assert contexts - {LENGTH} == {11, 5, 2, 1}, "nothing behind the first token is tried"


def test_pieces_follow_the_plan_where_a_row_reads_what_another_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second row has a hit on pages the first one computes in this very step."""
    r = cuda_rig()
    prompt = PROMPT[:9]
    for tensor in r.device._caches._pool:
        tensor.normal_(0.0, 30.0)  # a page that is read before it is written shows
    refused = refuse(monkeypatch, CudaDevice, "_compute", lambda d, bounds, *_: bounds.rows > 1)
    step = r.step(
        Work(0, 0, 9, 0, 1), Work(1, 8, 1, 0, 1),
        admit=(admission(0, prompt), admission(1, prompt, start=8)),
        blocks=((1, 0, 0, (1, 2, 70)),), upto={1: 0},
    )  # fmt: skip
    want = wanted(r, prompt, 2)
    assert tokens_of(step) == [want[:1], want[:1]] and refused
    again = r.step(Work(0, 9, 1, 0, 1), Work(1, 9, 1, 0, 1), upto={1: 0})
    assert tokens_of(again) == [want[1:], want[1:]]


def test_runs_are_steps_with_short_rows_first() -> None:
    step = rows_of((0, 3, 1), (1, 0, 5), (2, 4, 1), (3, 6, 1), (4, 0, 2), (5, 0, 3))
    assert step.order is not None
    planned = step.as_planned()
    runs = planned.runs()
    assert [list(run.slot) for run in runs] == [[0, 1], [2, 3, 4, 5]] and [run.first for run in runs] == [
        0,
        2,
    ]
    assert [run.bounds.tokens for run in runs] == [6, 7] and np.array_equal(planned.start, [3, 0, 4, 6, 0, 0])


def test_the_same_rows_go_on_after_a_step_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    r = cuda_rig()
    one, two = wanted(r, PROMPT, 4), wanted(r, OTHER, 4)
    r.step(Work(0, 0, 11, 0, 1), Work(1, 0, 5, 0, 1), admit=(admission(0, PROMPT), admission(1, OTHER)))
    with monkeypatch.context() as m:
        refuse(m, CudaDevice, "_compute", lambda d, bounds, *_: bounds.rows > 1)
        step = r.step(Work(1, 5, 1, 0, 1), Work(0, 11, 1, 0, 1))
    assert tokens_of(step) == [two[1:2], one[1:2]]
    assert tokens_of(r.step(same=True, blocks=((0, 0, 3, (70,)), (1, 0, 2, (71,))))) == [two[2:3], one[2:3]]


def test_counters_of_penalties_make_do_with_less(monkeypatch: pytest.MonkeyPatch) -> None:
    want = [tokens_of(three(cuda_rig(), PENALISED, GREEDY, PENALISED))]
    r = cuda_rig()
    refused = refuse(monkeypatch, torch, "zeros", lambda shape, **_: shape[0] > 1)
    monkeypatch.setattr(r.device._sampler._edits, "_rows", 8)
    assert [tokens_of(three(r, PENALISED, GREEDY, PENALISED))] == want and len(refused) == 3


def test_rows_whose_logits_cannot_be_edited_are_lost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    r = cuda_rig()
    refused = refuse(monkeypatch, CudaDevice, "_choose", lambda d, rows, variant, masks: variant == "full")
    step = three(r, PENALISED, GREEDY, SCORED)
    assert list(step.finished) == [NO_MEMORY, RUNNING, RUNNING] and len(refused) == 2
    assert tokens_of(step) == [[], wanted(r, OTHER, 1), wanted(r, PROMPT, 1)]
    assert [row for row, _ in step.logprobs] == [2]


def test_masked_rows_are_lost_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    r = cuda_rig()
    refuse(monkeypatch, type(r.device._sampler), "bitmaps", always)
    step = r.step(
        Work(0, 0, 11, 0, 1), Work(1, 0, 5, 0, 1), admit=(admission(0, PROMPT, grammar=True), admission(1, OTHER)),
        masks=(((0, 0),), (1 << 13).to_bytes(8, "little")),
    )  # fmt: skip
    assert list(step.finished) == [NO_MEMORY, RUNNING] and tokens_of(step) == [[], wanted(r, OTHER, 1)]


def test_masks_of_nobody_who_is_left_change_nothing() -> None:
    r = cuda_rig()
    step = r.step(Work(0, 0, 5, 0, 1), admit=(admission(0, OTHER),), masks=((), b""))
    assert tokens_of(step) == [wanted(r, OTHER, 1)]


@pytest.mark.parametrize("name", ["_raw", "_send_sampled"])
def test_scores_are_kept_for_who_finds_memory(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    r = cuda_rig()
    whole = three(cuda_rig(), SCORED, GREEDY, SCORED)
    refuse(monkeypatch, Logprobs, name, lambda *args: args[-1] - args[-2] > 1)
    assert three(r, SCORED, GREEDY, SCORED).logprobs == whole.logprobs
    r.step(release=(0, 1, 2))
    refuse(monkeypatch, Logprobs, name, lambda *args: args[-2:] == (0, 1))
    step = three(r, SCORED, GREEDY, SCORED)
    assert list(step.finished) == [NO_MEMORY, RUNNING, RUNNING]
    assert tokens_of(step)[1:] == [wanted(r, OTHER, 1), wanted(r, PROMPT, 1)]
    assert step.logprobs == whole.logprobs[1:]


@pytest.mark.parametrize("lost", [False, True])
def test_scores_of_a_prompt_in_pieces(monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    """A neighbour before it has ended, so that its tokens lie where the plan does not expect them."""
    how = Sampling(temperature=0.0, max_tokens=4, prompt_logprobs=2)
    short = Sampling(temperature=0.0, max_tokens=1)

    def scored() -> Any:
        r = cuda_rig()
        r.step(Work(0, 0, 5, 0, 1), admit=(admission(0, OTHER, sampling=short),))
        return r.step(
            Work(0, 5, 1, 0, 1), Work(1, 0, 11, 0, 11), Work(2, 0, 5, 0, 1),
            admit=(admission(1, PROMPT, sampling=how), admission(2, OTHER)),
        )  # fmt: skip

    whole = scored()
    refuse(monkeypatch, CudaDevice, "_compute", lambda d, bounds, *_: bounds.tokens > 4)
    refuse(monkeypatch, Logprobs, "_send_prompt", lambda *args: args[-1] - args[-2] > 2 or lost)
    step = scored()
    if lost:
        assert list(step.finished) == [RUNNING, NO_MEMORY, RUNNING] and step.prompt_logprobs == ()
        assert tokens_of(step)[2] == tokens_of(whole)[2]
        return
    assert tokens_of(step) == tokens_of(whole)
    ((_, first, entries),), ((_, same, exact),) = step.prompt_logprobs, whole.prompt_logprobs
    assert first == same == 1 and [e.top_ids for e in entries] == [e.top_ids for e in exact]
    assert [e.logprob for e in entries] == pytest.approx([e.logprob for e in exact], abs=1e-4)


def test_pages_are_copied_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = cuda_rig().device._caches
    for i, tensor in enumerate(caches._pool):
        tensor[10], tensor[11], tensor[20] = i + 1.0, i + 2.0, i + 3.0
    refuse(monkeypatch, caches, "_copy_at_once", always)
    copies = [(10, 30), (11, 12), (20, 21), (12, 13)]
    caches.copy([Copy(i, "cow", 0, *pages) for i, pages in enumerate(copies)])
    for i, tensor in enumerate(caches._pool):
        assert [float(tensor[page].unique()) for page in (30, 12, 21, 13)] == [i + 1, i + 2, i + 3, i + 2]


def larger_landing(*size: Any, **named: Any) -> bool:
    """Words for uploads on the device, which has 64 from the start."""
    words = len(size) == 1 and isinstance(size[0], int) and named.get("dtype") == torch.int32
    return words and "device" in named and size[0] > 64


def test_uploads_that_find_no_room_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "_WORDS", 64)
    r = cuda_rig()
    one, two = wanted(r, PROMPT, 1), wanted(r, OTHER, 1)

    with monkeypatch.context() as m:
        refused = refuse(m, upload.torch, "empty", larger_landing)
        assert tokens_of(three(r)) == [one, two, one] and refused
