"""The device's sampler against the numpy one: the same tokens for the same seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from octavo.core.messages import Admission, StepMasks
from octavo.ops.triton import sample
from octavo.sampling.device.edits import Masks
from octavo.sampling.device.lists import bitmap_of
from octavo.sampling.device.sampler import DeviceSampler
from octavo.sampling.sampler import Sampler
from tests.cpu.sampling.rows import admission, logits_of, rows_of
from tests.kernels.fresh import number

SLOTS = 64
KINDS = {
    "greedy": [dict(temperature=0.0)],
    "random": [dict(), dict(temperature=0.6), dict(temperature=0.0), dict(temperature=0.01)],
    "truncated": [
        *(dict(top_k=k, temperature=t) for k, t in ((1, 1.0), (3, 0.3), (50, 1.0), (50, 0.3), (5000, 0.3))),
        *(dict(top_p=p, temperature=t) for p, t in ((1e-9, 1.0), (0.1, 1.7), (0.9, 1.0), (0.999, 1.7))),
        *(dict(min_p=m) for m in (0.001, 0.3, 1.0)),
        dict(top_k=20, top_p=0.8),
        dict(top_k=400, top_p=0.99, min_p=1e-4),
        dict(min_p=0.01, top_p=0.7),
        dict(),
        dict(temperature=0.0),
    ],
}


def sampler_of(admissions: list[Admission], vocab: int, device: str) -> DeviceSampler:
    history = torch.from_numpy(rows_of(admissions).history).to(device)
    sampler = DeviceSampler(SLOTS, vocab, history, history.device)
    for workspace in vars(sampler._work).values():
        if isinstance(workspace, torch.Tensor) and workspace.is_floating_point():
            workspace.fill_(float("nan"))
    for a in admissions:
        sampler.admit(a)
    sampler.flush()
    return sampler


def both(
    admissions: list[Admission], logits: np.ndarray, device: str, variant: str, masks: StepMasks | None = None
) -> tuple[list[int], list[int]]:
    """(tokens of the device, tokens of the reference)"""
    vocab, rows = logits.shape[1], rows_of(admissions)
    sampler = sampler_of(admissions, vocab, device)
    assert sampler.variant(rows.slot, masks is not None) == variant
    reference = Sampler(SLOTS)
    for a in admissions:
        reference.admit(a)
    bitmaps = None if masks is None else sampler.bitmaps(rows.slot, masks)
    drawn = draw(sampler, logits, rows.slot, rows.position, variant, bitmaps)
    return drawn, reference.sample(logits.copy(), rows, masks).tolist()


def draw(
    sampler: DeviceSampler,
    logits: np.ndarray,
    slots: np.ndarray,
    positions: np.ndarray,
    variant: str,
    bitmaps: Masks | None = None,
) -> list[int]:
    where = sampler._device
    out = torch.full((len(logits),), -7, dtype=torch.int32, device=where)
    sampler.sample(
        torch.from_numpy(logits.copy()).to(where),
        torch.from_numpy(slots.astype(np.int32)).to(where),
        torch.from_numpy(positions).to(where),
        variant,
        bitmaps,
        out=out,
    )
    return out.tolist()


def requests(kinds: list[dict[str, Any]], rng: np.random.Generator, rows: int) -> list[Admission]:
    slots = rng.permutation(SLOTS)[:rows]
    return [
        admission(
            int(slot),
            rng.integers(0, 50, rng.integers(2, 100)),
            prompt=int(rng.integers(1, 3)),
            seed=int(rng.integers(0, 2**63 - 1)),
            **kinds[i % len(kinds)],
        )
        for i, slot in enumerate(slots)
    ]


BIG = [
    pytest.param(vocab, spread, ties, marks=pytest.mark.gpu)
    for vocab in (50257, 128256, 151936)
    for spread in (0.0, 0.5, 3.0, 12.0)
    for ties in (False, True)
]
SMALL = [(1, 1.0, False), (33, 0.0, False), (1000, 3.0, False), (1000, 3.0, True)]


@pytest.mark.parametrize("variant", KINDS)
@pytest.mark.parametrize(("vocab", "spread", "ties"), [*SMALL, *BIG])
def test_a_seeded_row_draws_what_the_cpu_draws(variant, vocab, spread, ties, device):
    kinds = KINDS[variant]
    rng = np.random.default_rng(number())
    rows = max(4, len(kinds))
    logits = logits_of(rows, vocab, number(), spread)
    if ties:
        logits = np.round(logits)
    logits[1, vocab // 3 :] = -np.inf
    logits[2] = -np.inf
    admissions = requests(kinds, rng, rows)
    got, want = both(admissions, logits, device, variant if any(kinds) else "greedy")
    assert got == want


LARGE = [  # with the digits that logits are rounded to: fewer make more of them equal
    (dict(top_k=300), 9),
    (dict(top_k=300), 0),
    (dict(top_p=0.8), 9),
    (dict(top_p=0.8, temperature=1.7), 0),
    (dict(top_k=200, top_p=0.5, temperature=0.6), 1),  # two searches
    (dict(top_k=300, top_p=0.97), 0),
    (dict(min_p=0.05, top_p=0.9), 1),
    (dict(min_p=0.01), 9),
    (dict(), 9),
]


def stayed(sampler: DeviceSampler, row: int, logits: np.ndarray, temperature: float) -> np.ndarray:
    """The ids of the nucleus that a search ended with."""
    keys = (logits / np.float32(temperature) + np.float32(0)).view(np.int32).astype(np.int64)
    keys ^= (keys >> 31) & 0x7FFFFFFF
    edge, last = sampler._work.plans[row, 6:8].tolist()
    return np.flatnonzero((keys > edge) | ((keys == edge) & (np.arange(len(keys)) <= last)))


def search(kinds: list[dict[str, Any]], logits: np.ndarray, device: str, monkeypatch) -> None:
    """Many rounds for rows that are small: the same tokens, out of the same nuclei."""
    for name, value in (("LIST", 16), ("MOST", 8), ("STEP", 256), ("ROUNDS", 2)):
        monkeypatch.setattr(f"octavo.ops.triton.sample.{name}", value)
    many, vocab = logits.shape
    admissions = requests(kinds, np.random.default_rng(number()), many)
    sampler = sampler_of(admissions, vocab, device)
    rows, reference = rows_of(admissions), Sampler(SLOTS)
    for a in admissions:
        reference.admit(a)
    drawn = draw(sampler, logits, rows.slot, rows.position, "truncated")
    cut = logits.copy()
    assert drawn == reference.sample(cut, rows).tolist()
    assert sampler._work.state[:many].tolist() == [2] * many  # none was narrow
    for row in range(many):
        kept = stayed(sampler, row, logits[row], admissions[row].sampling.temperature)
        assert kept.tolist() == np.flatnonzero(cut[row] > -np.inf).tolist()


def test_a_large_nucleus_is_searched_in_rounds(device, monkeypatch):
    logits = logits_of(len(LARGE), 1000, number(), 1.0)
    for row, (_, digits) in zip(logits, LARGE, strict=True):
        row[:] = np.round(row, digits)
    search([kind for kind, _ in LARGE], logits, device, monkeypatch)


@pytest.mark.parametrize("rows", [4, pytest.param(SLOTS, marks=pytest.mark.gpu)])
def test_an_edge_that_many_tokens_share_is_met_exactly(rows, device, monkeypatch):
    """A search for it comes down to neighbouring floats: were one a bit off in one place, all would be lost."""
    rng = np.random.default_rng(number())
    kinds = [
        dict(top_k=int(k), temperature=float(t))
        for k, t in zip(rng.integers(100, 500, rows), rng.uniform(0.3, 2.0, rows), strict=True)
    ]
    search(kinds, np.round(logits_of(rows, 1000, number(), 1.0), 1), device, monkeypatch)


def kind_of(launch: sample.Launch) -> tuple[Any, ...]:
    """What decides which binary a launch needs."""
    args = (a.dtype if isinstance(a, torch.Tensor) else (a % 16 == 0, a == 1) for a in launch.args)
    draws = launch.kernel is sample.wide
    return launch.kernel, *sorted(launch.options.items()), *(list(args)[:-1] if draws else args)


@pytest.mark.parametrize("vocab", [1000, 4096])
def test_a_batch_of_any_size_needs_the_kernels_of_the_largest(vocab, monkeypatch):
    """So that one rehearsal compiles them all."""
    seen = set()
    monkeypatch.setattr(sample.Launch, "run", lambda self: seen.add(kind_of(self)))
    sampler = sampler_of([], vocab, "cpu")

    def kinds(rows):
        seen.clear()
        logits, slots = np.zeros((rows, vocab), np.float32), np.arange(rows)
        for variant in ("greedy", "random", "truncated"):
            draw(sampler, logits, slots, slots, variant)
        return set(seen)

    largest = kinds(SLOTS)
    assert len(largest) > 3
    for rows in (1, 2, 13):
        assert kinds(rows) <= largest


EDITS = {
    "allowed": dict(allowed_token_ids=(3, 50, 96)),
    "one bad word": dict(bad_words=((5,), (7,))),
    "bad phrase": dict(bad_words=((11, 12, 40), (12, 41), (9, 9, 9, 9, 42), (40, 43), (20, 20, 11, 12, 33))),
    "early end": dict(min_tokens=9, eos=(2,), stop_token_ids=(30, 31)),
    "nothing but the end": dict(min_tokens=9, eos=(2, 5), stop_token_ids=(2,), allowed_token_ids=(2, 5)),
    "end allowed": dict(min_tokens=4, eos=(2,), stop_token_ids=(30,)),
    "bias": dict(logit_bias=((4, 5.5), (60, -100.0), (4, 2.5))),
    "repetition": dict(repetition_penalty=1.4),
    "reward": dict(repetition_penalty=0.7, temperature=0.0),
    "frequency": dict(frequency_penalty=0.8),
    "presence": dict(presence_penalty=-1.1),
    "all": dict(
        temperature=0.6, top_p=0.9, top_k=20, min_p=0.02, presence_penalty=0.3, frequency_penalty=0.2,
        repetition_penalty=1.1, min_tokens=6, eos=(2,), logit_bias=((8, 3.0),), bad_words=((11, 12, 8),),
        allowed_token_ids=tuple(range(60)),
    ),
    "none": dict(),
}  # fmt: skip
TOKENS, PROMPT = (11, 12, 13, 13, 90, 20, 20, 11, 12), 5


@pytest.mark.parametrize("greedy", [False, True])
def test_edits_are_the_stages_edits(greedy, device):
    seed = number()
    admissions = [
        admission(
            i + 3, TOKENS, PROMPT, seed=seed + i, **(params | (dict(temperature=0.0) if greedy else {}))
        )
        for i, params in enumerate(EDITS.values())
    ]
    if greedy:  # truncation belongs to drawing
        admissions = [a for a in admissions if a.sampling is not None and a.sampling.top_k == 0]
    logits = logits_of(len(admissions), 97, seed, 4.0)
    got, want = both(admissions, logits, device, "full")
    assert got == want


def test_masks_bind_the_rows_they_name(device):
    admissions = [admission(i, TOKENS, PROMPT, seed=number(), temperature=i % 2) for i in range(6)]
    logits = logits_of(6, 97, number(), 4.0)
    few, none = bitmap_of((7, 70, 96), 97), bitmap_of((), 97)
    masks = StepMasks(plan_id=0, rows=((1, 0), (4, 0), (5, 0)), bits=np.stack([few, few, none]).tobytes())
    got, want = both(admissions, logits, device, "full", masks)
    assert got == want
    assert {got[1], got[4]} <= {7, 70, 96} and got[5] == 0


def test_a_slot_forgets_its_request(device):
    wild = admission(4, TOKENS, PROMPT, logit_bias=((60, 100.0),), repetition_penalty=1.7)
    sampler = sampler_of([wild], 97, device)
    logits, slot, position = logits_of(1, 97, number()), np.array([4]), np.array([len(TOKENS)])
    assert draw(sampler, logits, slot, position, "full") == [60]
    sampler.release(4)
    assert sampler.variant(slot, False) == "greedy"
    sampler.admit(admission(4, TOKENS, PROMPT, temperature=0.0))
    sampler.flush()
    assert sampler.variant(slot, False) == "greedy"
    assert draw(sampler, logits, slot, position, "full") == [int(logits.argmax())]


def test_counters_are_left_clean(device):
    a = admission(0, TOKENS, PROMPT, repetition_penalty=1.3, frequency_penalty=0.5)
    sampler = sampler_of([a], 97, device)
    logits, slot, position = logits_of(1, 97, number()), np.array([0]), np.array([len(TOKENS)])
    assert draw(sampler, logits, slot, position, "full") == draw(sampler, logits, slot, position, "full")
    assert not sampler._edits._counts.any()
