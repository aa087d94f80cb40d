"""The whole engine on the GPU: float32 gives transformers' tokens, bfloat16 stays within a stated bound, and
no feature (graphs, overlap, chunks, prefix cache, preemption, neighbours) changes a token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from octavo import LLM, SamplingParams
from octavo.ops.cuda import matmul as hopper
from octavo.ops.cuda import program
from tests.gpu.closeness import Closeness
from tests.gpu.models import CONFIGS, greedy, logits_of, prompts, save

COUNT = 24  # tokens
# largest error of a bfloat16 log-probability, over the largest logit of the position; transformers' own in
# bfloat16 is 0.010 to 0.026 on these models
BOUND = 0.04
FULL = {"max_num_seqs": 32, "max_model_len": 512, "kv_cache_memory_bytes": 64 << 20}


class Case:
    def __init__(self, name: str, folder: Path, spread: float | None = None) -> None:
        self.folder, self.theirs = folder, save(name, folder, spread)
        self.prompts = prompts(10)
        self.wanted = [greedy(self.theirs, p, COUNT) for p in self.prompts]

    def llm(self, **settings: Any) -> LLM:
        given = {**FULL, "dtype": "float32", **settings}
        return LLM(model=str(self.folder), skip_tokenizer_init=True, **given)

    def scored(self, **settings: Any) -> list[tuple[list[int], Any]]:
        """(prompt, its greedy answer with the log-probabilities of all tokens)"""
        params = SamplingParams(
            temperature=0.0, max_tokens=COUNT, ignore_eos=True, detokenize=False, logprobs=-1
        )
        with self.llm(max_logprobs=-1, **settings) as llm:
            outputs = llm.generate([{"prompt_token_ids": p} for p in self.prompts], params, use_tqdm=False)
        return [(p, output.outputs[0]) for p, output in zip(self.prompts, outputs, strict=True)]


@pytest.fixture(scope="module", params=list(CONFIGS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    yield Case(request.param, tmp_path_factory.mktemp(request.param))


def generate(llm: LLM, asked: list[list[int]], **params: Any) -> list[list[int]]:
    given = {"temperature": 0.0, "max_tokens": COUNT, "ignore_eos": True, "detokenize": False, **params}
    outputs = llm.generate([{"prompt_token_ids": p} for p in asked], SamplingParams(**given), use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"enforce_eager": True},
        {"async_scheduling": False},
        {"max_num_batched_tokens": 37},
        {"block_size": 32, "enable_prefix_caching": False},
        {"enforce_eager": True, "async_scheduling": False, "max_num_batched_tokens": 64},
    ],
    ids=str,
)
def test_float32_gives_the_tokens_of_transformers(case: Case, settings: dict[str, Any]) -> None:
    with case.llm(**settings) as llm:
        assert generate(llm, case.prompts) == case.wanted
        assert generate(llm, case.prompts[:1]) == case.wanted[:1], "alone"
        assert llm.stats().overlapped > 0 or settings.get("async_scheduling") is False


def test_preemption_changes_nothing(case: Case) -> None:
    asked = [p[:16] for p in case.prompts]
    wanted = [greedy(case.theirs, p, 40) for p in asked]
    with case.llm(kv_cache_memory_bytes=None, num_gpu_blocks_override=22, max_model_len=128) as llm:
        assert generate(llm, asked, max_tokens=40) == wanted
        assert llm.stats().preemptions > 0


def test_a_prefix_from_the_cache_changes_nothing(case: Case) -> None:
    longest = case.prompts[7]
    asked = [longest[:200] + p for p in case.prompts]
    wanted = [greedy(case.theirs, p, 8) for p in asked]
    with case.llm() as llm:
        generate(llm, asked[:1], max_tokens=1)
        assert generate(llm, asked, max_tokens=8) == wanted
        assert llm.stats().prefix_hits > 1000


@pytest.mark.parametrize("name", list(CONFIGS))
def test_bfloat16_stays_within_the_bound(name: str, tmp_path: Path) -> None:
    """Teacher-forced on our own tokens; where another token is the reference's first, the bound explains it."""
    case = Case(name, tmp_path, spread=0.03)
    close = Closeness(BOUND)
    for prompt, answer in case.scored(dtype="bfloat16"):
        tokens = list(answer.token_ids)
        close.answer(tokens, answer.logprobs, logits_of(case.theirs, prompt + tokens)[len(prompt) - 1 : -1])
    close.check(name)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_bfloat16_by_the_products_for_hopper(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which take matrices as small as these only here: many rows decode at once, prompts fill steps."""
    if not program.available(torch.device("cuda", 0)):
        pytest.skip("no Hopper")
    monkeypatch.setattr(hopper, "_SMALL", 1)
    monkeypatch.setattr(hopper, "fills", lambda m, n, processors: m > hopper.MOST)
    launched: set[str] = set()
    launch = program.Program.launch
    monkeypatch.setattr(
        program.Program, "launch", lambda self, *args: (launched.add(self.name), launch(self, *args))[1]
    )
    case = Case(name, tmp_path, spread=0.03)
    case.prompts *= 3
    close = Closeness(BOUND)
    for prompt, answer in case.scored(dtype="bfloat16"):
        tokens = list(answer.token_ids)
        close.answer(tokens, answer.logprobs, logits_of(case.theirs, prompt + tokens)[len(prompt) - 1 : -1])
    close.check(name)
    assert launched == {"skinny", "gated"}


def test_seeded_rows_do_not_depend_on_their_neighbours(case: Case) -> None:
    with case.llm() as llm:
        how = {"temperature": 0.9, "seed": 11, "top_p": 0.95}
        together = generate(llm, case.prompts, **how)
        alone = [generate(llm, [p], **how)[0] for p in case.prompts]
        assert together == alone
        assert together != case.wanted


def test_many_rows_at_once(case: Case) -> None:
    with case.llm(max_num_seqs=32) as llm:
        got = generate(llm, case.prompts * 6)
        assert got == case.wanted * 6


def test_log_probabilities_are_the_references(case: Case) -> None:
    with case.llm(max_logprobs=5) as llm:
        params = SamplingParams(
            temperature=0.0, max_tokens=6, ignore_eos=True, detokenize=False, logprobs=5, prompt_logprobs=2
        )
        outputs = llm.generate([{"prompt_token_ids": p} for p in case.prompts[2:5]], params, use_tqdm=False)
    for prompt, output in zip(case.prompts[2:5], outputs, strict=True):
        answer = output.outputs[0]
        exact = logits_of(case.theirs, prompt + list(answer.token_ids)).log_softmax(-1)
        for position, entry in enumerate(answer.logprobs):
            for token, value in entry.items():
                assert value.logprob == pytest.approx(
                    float(exact[len(prompt) - 1 + position, token]), abs=1e-3
                )
        for position, entry in enumerate(output.prompt_logprobs[1:]):
            assert entry[prompt[position + 1]].logprob == pytest.approx(
                float(exact[position, prompt[position + 1]]), abs=1e-3
            )
