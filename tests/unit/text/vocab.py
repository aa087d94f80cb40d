"""Tiny vocabularies made by hand, in the shape a GGUF file stores them."""

from __future__ import annotations

from typing import Any

from octavo.text.gguf_vocab import read_gguf
from octavo.text.pieces import _byte_alphabet
from octavo.text.tokenizer import Tokenizer

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [
    "h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "Ġ t", "Ġt he",
    "s t", "o p", "st op", "Ġ stop", "i n", "in g", "Ã ©",
]  # fmt: skip
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_level(**changes: Any) -> dict[str, Any]:
    """Specials, the user-defined "<think>", 256 bytes, and a few words."""
    alphabet = [char for char, _ in sorted(_byte_alphabet().items(), key=lambda pair: pair[1])]
    words = [merge.replace(" ", "") for merge in MERGES]
    tokens = [*SPECIALS, "<think>", *alphabet, *words]
    metadata = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": tokens,
        "token_type": [3] * len(SPECIALS) + [4] + [1] * (len(tokens) - len(SPECIALS) - 1),
        "merges": list(MERGES),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "add_bos_token": False,
        **changes,
    }
    found = {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}
    return {**found, "tokenizer.chat_template": CHATML}


def sentence_piece(**changes: Any) -> dict[str, Any]:
    """<unk>, <s>, </s>, 256 byte tokens, and pieces whose scores decide the merges."""
    pieces = ["▁", "h", "e", "l", "o", "w", "r", "d", "ll", "he", "▁w", "or", "▁wor", "ld", "▁world", "hell"]
    pieces += ["hello", "▁hello", "▁h", "▁he", "▁hell", ".", "\n"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * 259 + [-float(at) for at in range(len(pieces))],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}


def tokenizer(metadata: dict[str, Any] | None = None) -> Tokenizer:
    return Tokenizer(read_gguf(byte_level() if metadata is None else metadata, "test.gguf"))
