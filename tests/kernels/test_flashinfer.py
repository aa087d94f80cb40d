"""The backend "flashinfer": which rows it hands over, and that they come back right. The package itself is
stood in for (flashinfer_double.py); tests/gpu/test_flashinfer.py has the real one."""

from __future__ import annotations

import sys

import pytest
import torch

from octavo.attention import flashinfer
from octavo.core.errors import Unsupported
from octavo.core.facts import Platform
from octavo.core.messages import Work
from octavo.nn.forward import HostBounds
from octavo.nn.protocols import CacheSpec
from tests.cpu.runner import test_device as plain
from tests.cpu.runner.test_device import admission
from tests.kernels import flashinfer_double
from tests.kernels.attention_case import Case
from tests.kernels.attention_steps import CHUNKS, MIXED, attend, host_of
from tests.kernels.cuda_rig import cuda_rig

GPU = Platform(kind="cuda", name="test", cores=1, memory_total=1, memory_free=1, features=("sm90",))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, device: str) -> flashinfer.FlashInferAttention:
    """Takes steps of any size."""
    from octavo.ops.triton.attention_tune import FlashInferFrom

    monkeypatch.setitem(sys.modules, "flashinfer", flashinfer_double)
    made = flashinfer.FlashInferAttention(FlashInferFrom())
    made.reserve(16, torch.device(device))
    return made


@pytest.mark.parametrize("rows", [MIXED, CHUNKS, MIXED[:3] + CHUNKS[:1]], ids=["mixed", "chunks", "prompt"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"window": 9}, {"softcap": 3.0, "page": 32}, {"heads": 3, "kv_heads": 1, "d": 128}],
    ids=str,
)
def test_rows_equal_the_definition(device, backend, rows, changes):
    case = Case(rows, device=device, dtype=torch.bfloat16, pad=0, **changes).build()
    n = sum(count for count, _ in rows)
    got = attend(backend, case, host_of(case))
    assert case.check(got[:n], case.expected()[:n]) <= 1
    assert backend.plans == 1, "one for all layers of a step"


def test_without_the_rows_our_own_kernel_attends(device, backend):
    """In what is captured, and where the kernels of a start are rehearsed; FlashInfer's are made then."""
    case = Case(MIXED, device=device, dtype=torch.bfloat16).build()
    got = attend(backend, case, None)
    assert case.check(got, case.expected()) <= 1
    assert backend.plans == 0 and len(backend._turns) == 1


def test_other_dtypes_are_our_own_kernels(device, backend):
    case = Case(MIXED, device=device, dtype=torch.float32).build()
    assert case.check(attend(backend, case, host_of(case)), case.expected()) <= 1
    assert backend.plans == 0


def test_steps_that_need_their_rows_are_not_captured(backend, monkeypatch):
    chunk = HostBounds(3, 64, 62, 300, fresh=True, later=True)
    assert not backend.captures(chunk) and backend.captures(HostBounds(8, 8, 1, 9000))
    backend._from = backend._tune.FlashInferFrom((64,), tokens=65)
    assert backend.captures(chunk)
    backend._from = backend._tune.FlashInferFrom((64,), context=300)
    assert not backend.captures(chunk) and backend.captures(chunk._replace(max_context=299))
    backend._from = backend._tune.FlashInferFrom()
    monkeypatch.setattr(backend, "_can_whole", lambda device: True)
    prompts = HostBounds(1, 300, 300, 300, fresh=True, later=False)
    assert backend.captures(prompts) and not backend.captures(prompts._replace(later=True))
    assert not backend.captures(prompts._replace(max_query=20)), "too short for whole prompts' own kernel"


def test_what_it_measured_as_the_fastest_is_chosen(monkeypatch):
    from octavo.ops.triton import attention_tune

    spec = CacheSpec("layer", 2, 64)
    assert not flashinfer.FlashInferAttention.measured(spec, GPU)
    monkeypatch.setitem(attention_tune.FLASHINFER, "sm90", attention_tune.FlashInferFrom((64, 128)))
    assert flashinfer.FlashInferAttention.measured(spec, GPU)
    assert not flashinfer.FlashInferAttention.measured(spec._replace(head_dim=256), GPU)


def test_a_compiler_that_fails_is_told(device, backend, monkeypatch):
    def plan(*given, **settings):
        raise RuntimeError("Could not find nvcc")

    monkeypatch.setattr(flashinfer_double.BatchPrefillWithPagedKVCacheWrapper, "plan", plan)
    case = Case(CHUNKS, device=device, dtype=torch.bfloat16).build()
    with pytest.raises(Unsupported, match="nvcc") as caught:
        attend(backend, case, host_of(case))
    assert caught.value.field == "attention_backend" and "triton" in caught.value.hint


@pytest.fixture
def rigs(backend, monkeypatch: pytest.MonkeyPatch) -> flashinfer.FlashInferAttention:
    """Devices whose rows of several tokens are handed over, in float32 and with heads of 16: a GPU's own
    kernels take none that are smaller."""
    monkeypatch.setattr(flashinfer, "_DTYPES", (torch.float32,))
    monkeypatch.setattr(flashinfer, "_HEADS", (16,))
    monkeypatch.setattr(plain, "rig", lambda *a, **k: cuda_rig(*a, backend=backend, head_dim=16, **k))
    return backend


def test_a_device_keeps_its_promises(rigs):
    plain.test_mixed_steps_of_chunks_decodes_and_admissions()
    assert rigs.plans > 0


def test_chunks_that_go_on_by_the_same_plan(rigs, monkeypatch):
    """Padded like what is captured at first, which later chunks are not."""
    monkeypatch.setattr(rigs, "_takes", lambda bounds: bounds.later and bounds.max_query > 1)
    r = plain.rig()
    r.step(Work(0, 0, 3, 0, 0), admit=(admission(0, plain.PROMPT),), upto={0: 12})
    assert rigs.plans == 0
    for _ in range(2):
        r.step(same=True)
    last = r.step(Work(0, 9, 2, 0, 1))
    assert plain.tokens_of(last) == [plain.greedy_decode(r.model, r.backend, plain.PROMPT, 1)]
    assert rigs.plans == 3
