"""The default model's vocabulary, read from its GGUF, against transformers reading the same file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from octavo.text.chat import encode, find_template
from octavo.text.tokenizer import Tokenizer
from tests.unit.text.vocab import MERGES, byte_level, tokenizer

TEXTS = [
    "Hello, world!",
    "  def f(x):\n\treturn x ** 2  # comment\n\n\n",
    "1234567890 3.14 2024-02-29",
    "naïve café, Zürich, Łódź",
    "你好，世界。こんにちは 안녕하세요",
    "👨‍👩‍👧 🏳️‍🌈 e\u0301 \u200b\u00a0",
    "<|im_start|>user\nHi<|im_end|>\n",
    "It's we'll I'M don't",
    "\u0000\x7f\ufffd",
]


@pytest.fixture(scope="module")
def pair(default_model):
    from transformers import AutoTokenizer

    path = Path(default_model.tokenizer)
    reference = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    return Tokenizer.load(default_model.tokenizer), reference


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_the_same(pair, text):
    ours, reference = pair
    ids = ours.encode(text)
    assert ids == reference.encode(text)
    assert ours.decode(ids, skip_special=False) == text
    assert ours.decode(ids) == reference.decode(
        ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )


def test_facts(pair):
    ours, _ = pair
    assert (ours.vocab_size, ours.eos_token_ids, ours.bos_token_id) == (49152, (2,), 1)
    assert len(ours.specials) == 17


def test_chat_prompts_are_the_same(pair):
    ours, reference = pair
    template = find_template(None, ours)
    messages = [
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Really? 😀"},
    ]
    rendered = template.render(messages)
    expected = reference.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered.text == expected
    assert encode(rendered, ours) == reference.encode(expected, add_special_tokens=False)


def test_older_files_are_converted_by_transformers(tmp_path):
    """A folder with vocab.json and merges.txt but no tokenizer.json."""
    tokens = byte_level()["tokenizer.ggml.tokens"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: id for id, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    names = {"eos_token": "<|im_end|>", "bos_token": "<|im_start|>", "unk_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer", **names}))
    made = Tokenizer.load(str(tmp_path))
    assert made.encode("hello the world<|im_end|>") == tokenizer().encode("hello the world<|im_end|>")
    assert made.eos_token_ids == (2,) and made.special_ids == {0, 1, 2}
