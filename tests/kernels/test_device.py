"""The GPU's device keeps the CPU device's promises: the same tests, through the kernels."""

from __future__ import annotations

import pytest
import torch

from tests.cpu.runner import test_device as plain
from tests.kernels.cuda_rig import cuda_rig


@pytest.fixture(autouse=True)
def on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "rig", cuda_rig)


@pytest.mark.parametrize(
    "test",
    [
        plain.test_mixed_steps_of_chunks_decodes_and_admissions,
        plain.test_a_plan_without_work_is_legal_and_starts_the_table_afresh,
        plain.test_a_done_row_writes_nothing_beside_its_neighbours,
        plain.test_the_longest_context_ends_a_row,
        plain.test_resuming_a_preempted_request_changes_nothing,
        plain.test_a_fork_copies_the_partial_page_and_both_go_on,
        plain.test_copies_follow_each_other_in_order,
        plain.test_logprobs_are_the_models_own,
        plain.test_logprobs_of_named_tokens,
        plain.test_many_stop_ids_widen_the_table,
    ],
    ids=lambda test: test.__name__,
)
def test_as_on_a_cpu(test) -> None:
    test()


@pytest.mark.parametrize("chunk", [3, 100])
def test_greedy_tokens(chunk: int) -> None:
    plain.test_greedy_tokens_equal_full_recomputation(chunk)


@pytest.mark.parametrize("ends", ["eos", "stop_token_ids"])
def test_a_row_ends_on_the_device(ends: str) -> None:
    r = cuda_rig()
    want = plain.greedy_decode(r.model, r.backend, plain.PROMPT, 8)
    cut = want[: want.index(want[2]) + 1]
    assert r.run(plain.PROMPT, temperature=0.0, max_tokens=40, **{ends: (want[2],)}) == cut


def test_a_step_without_memory_is_computed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    r = cuda_rig()
    want = plain.greedy_decode(r.model, r.backend, plain.PROMPT, 12)
    compute, refused = r.device._compute, []

    def short_of_memory(bounds, *rest):
        if bounds.tokens > 3:
            refused.append(bounds)
            raise torch.OutOfMemoryError("nothing left")
        return compute(bounds, *rest)

    monkeypatch.setattr(r.device, "_compute", short_of_memory)
    assert r.run(plain.PROMPT, temperature=0.0, max_tokens=12) == want and refused
