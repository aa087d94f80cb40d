"""LLM with a model of random weights: token ids only, life and death, engine seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from octavo import LLM, SamplingParams
from octavo.core.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
RANDOM = SamplingParams(temperature=1.0, max_tokens=12, ignore_eos=True, detokenize=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("tiny")
    (where / "config.json").write_text(json.dumps(CONFIG))
    return str(where)


def small(folder, **settings):
    return LLM(
        folder,
        load_format="dummy",
        skip_tokenizer_init=True,
        dtype="float32",
        kv_cache_memory_bytes="8MiB",
        **settings,
    )


def test_ids_without_a_tokenizer(folder):
    with small(folder) as llm:
        outputs = llm.generate([[5, 6, 7], {"prompt_token_ids": [8]}], RANDOM, use_tqdm=False)
        assert [len(output.outputs[0].token_ids) for output in outputs] == [12, 12]
        assert all(output.outputs[0].text == "" and output.prompt is None for output in outputs)
        with pytest.raises(UserError, match="tokenizer"):
            llm.generate("hello", RANDOM)
        with pytest.raises(UserError, match="tokenizer"):
            llm.get_tokenizer()
        with pytest.raises(UserError, match="tokenizer"):
            llm.generate([5], SamplingParams(stop=["x"]))


def test_equal_engine_seeds_repeat_a_run(folder):
    def run(seed):
        with small(folder, seed=seed) as llm:
            outputs = llm.generate([[5]] * 3, RANDOM, use_tqdm=False)
            return [output.outputs[0].token_ids for output in outputs]

    one, same, other = run(1), run(1), run(2)
    assert one == same and one != other and one[0] != one[1]


def test_what_begins_early_ends_with_a_refused_prompt(folder):
    """Long prompts begin while later ones are still looked at."""
    with small(folder, max_num_batched_tokens=32) as llm:
        long = [[at + 1] * 40 for at in range(4)]
        greedy = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
        (alone,) = llm.generate(long[:1], greedy, use_tqdm=False)
        before = llm._client.stats().steps
        with pytest.raises(UserError, match="-1"):
            llm.generate([*long, [-1]], greedy, use_tqdm=False)
        assert llm._client.stats().steps > before and not llm._client.busy
        first, *others = llm.generate(long, greedy, use_tqdm=False)
        assert first.outputs[0].token_ids == alone.outputs[0].token_ids
        assert len(others) == 3 and all(output.finished for output in others)


def test_a_closed_llm_says_so(folder):
    llm = small(folder)
    llm.close()
    llm.close()
    with pytest.raises(UserError, match="closed"):
        llm.generate([5], RANDOM)


def test_a_program_ends_without_closing(folder):
    code = (
        "from octavo import LLM\n"
        f"llm = LLM({folder!r}, load_format='dummy', skip_tokenizer_init=True, kv_cache_memory_bytes='8MiB')\n"
        "print(len(llm.generate([5], use_tqdm=False)[0].outputs[0].token_ids))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) <= 16
