"""GGUF files: headers that lie, files that are cut, metadata and tensors that do not fit."""

from __future__ import annotations

from math import prod
from typing import Any

from octavo.core.errors import EngineError, Unsupported, UserError
from tests.bad.breaking import GGUF, both, cut, empty, only_gguf, rename, write
from tests.bad.row import Row, artefact
from tests.bad.sound import VOCAB, gguf_tensors, write_gguf
from tests.unit.checkpoint.test_gguf_header import BROKEN
from tests.unit.checkpoint.write_gguf import ARRAY, F32, I32, STRING, Raw, Typed

DOWNLOAD, FETCH, MODEL = "download the file again", "fetch the file again", "fetch the model again"
PART = "m-00001-of-00002.gguf"
CUTS = [
    (0, "does not begin like a GGUF file", "fetch it again"),
    (0.0001, "is too short for a GGUF file", DOWNLOAD),
    (0.005, "ends inside its header", DOWNLOAD),
    (0.01, "claims 264 strings, more than the file can hold", DOWNLOAD),
    (0.05, "ends inside its header", DOWNLOAD),
    (0.1, "lies outside the file", DOWNLOAD),
    (0.5, "lies outside the file", DOWNLOAD),
    (-1, "lies outside the file", DOWNLOAD),
]


def f32(*shape: int) -> Raw:
    return Raw(0, shape, bytes(4 * prod(shape)))


def cut_off(keep: float, says: str, remedy: str) -> Row:
    return artefact(
        f"gguf cut: {keep}", both(only_gguf, cut(GGUF, keep)), "model", (GGUF, says), remedy, model=GGUF
    )


def bad_header(name: str, data: bytes, says: str) -> Row:
    breaks, remedy = both(empty, write(GGUF, data)), "fetch" if "version" in says else DOWNLOAD
    if data[:4] != b"GGUF":
        says, remedy = "does not begin like a GGUF file", "fetch it again"
    return artefact(f"gguf header: {name}", breaks, "model", (GGUF, says), remedy, model=GGUF)


def with_metadata(
    changes: dict[str, Any], field: str, says: str, remedy: str, *, kind: type[EngineError] | None = None
) -> Row:
    """A file that is sound as such, with these keys changed; None leaves one out."""
    breaks = both(empty, lambda folder: write_gguf(folder / GGUF, **changes))
    more = {} if kind is None else {"kind": kind}
    return artefact(f"gguf {changes!r:.70}", breaks, field, (GGUF, says), remedy, model=GGUF, **more)


def with_tensors(
    changes: dict[str, Raw | None],
    field: str,
    says: str,
    remedy: str,
    *,
    kind: type[EngineError] | None = None,
) -> Row:
    held = {name: raw for name, raw in {**gguf_tensors(), **changes}.items() if raw is not None}
    breaks = both(empty, lambda folder: write_gguf(folder / GGUF, held))
    more = {} if kind is None else {"kind": kind}
    return artefact(f"gguf {says:.70}", breaks, field, (GGUF, says), remedy, model=GGUF, **more)


ARCH, LLAMA, WORDS = "general.architecture", "llama.", "tokenizer.ggml."
HEADS = f"{LLAMA}attention.head_count"
VALUES = f"{LLAMA}attention.value_length"
NO_TOKENS, ONE_SCORE = Typed(ARRAY, (STRING, [])), Typed(ARRAY, (F32, [1.0]))
UNEQUAL = Typed(ARRAY, (I32, [2, 1]))
KNOWN = "another format; known: F32"

GGUFS = [
    *(cut_off(*row) for row in CUTS),
    *(bad_header(name, *row) for name, row in BROKEN.items()),
    artefact(
        "a part", both(only_gguf, rename(GGUF, PART)), "model", (PART, "one part"), "--merge", model=PART
    ),
    artefact(
        "several GGUF files",
        both(only_gguf, lambda folder: write_gguf(folder / "n.gguf")),
        "model",
        "several .gguf files: m.gguf, n.gguf",
        "name one of them",
    ),
    artefact(
        "GGUF where safetensors was asked for",
        only_gguf,
        "load_format",
        (GGUF, "is a GGUF file"),
        "--load-format auto",
        kind=UserError,
        model=GGUF,
        load_format="safetensors",
    ),
    with_metadata({ARCH: None}, ARCH, "architecture None", "known: llama", kind=Unsupported),
    with_metadata({ARCH: "rwkv9"}, ARCH, "architecture 'rwkv9'", "known: llama", kind=Unsupported),
    with_metadata({f"{LLAMA}block_count": None}, f"{LLAMA}block_count", "lacks llama.block_count", DOWNLOAD),
    with_metadata(
        {f"{LLAMA}block_count": "2"}, f"{LLAMA}block_count", "an unsupported llama.block", DOWNLOAD
    ),
    with_metadata({f"{LLAMA}block_count": 0}, "num_hidden_layers", "is 0", "[1, 4096]"),
    with_metadata({f"{LLAMA}block_count": 3}, "model", "lacks model.layers.2", MODEL),
    with_metadata({HEADS: 0}, "num_attention_heads", "is 0", "an integer in [1,"),
    with_metadata({f"{HEADS}_kv": 3}, "num_key_value_heads", "4 heads do not divide by 3", "--hf-overrides"),
    with_metadata({f"{HEADS}_kv": UNEQUAL}, f"{HEADS}_kv", f"an unsupported {HEADS}_kv", DOWNLOAD),
    with_metadata({VALUES: 4}, VALUES, "keys of size 8", "safetensors", kind=Unsupported),
    with_metadata(
        {f"{LLAMA}attention.layer_norm_rms_epsilon": float("nan")}, "rms_norm_eps", "is nan", "finite"
    ),
    with_metadata({f"{LLAMA}rope.freq_base": -1.0}, "rope_theta", "is -1.0", "a number above 1"),
    with_metadata(
        {f"{LLAMA}rope.scaling.type": "up"}, "rope_type", "'up'", "known: default", kind=Unsupported
    ),
    with_metadata({f"{WORDS}model": "t5"}, "tokenizer", "of kind 't5'", "--tokenizer", kind=Unsupported),
    with_metadata({f"{WORDS}model": None}, "tokenizer", "tokenizer.ggml.model is missing", FETCH),
    with_metadata({f"{WORDS}tokens": None}, "tokenizer", "tokenizer.ggml.tokens is missing", FETCH),
    with_metadata({f"{WORDS}tokens": [1, 2]}, "tokenizer", "tokens is not a list of str", FETCH),
    with_metadata({f"{WORDS}tokens": NO_TOKENS}, "tokenizer", "tokens has 0 entries", FETCH),
    with_metadata({f"{WORDS}token_type": [1]}, "tokenizer", "1 entries for 264 tokens", FETCH),
    with_metadata({f"{WORDS}merges": None}, "tokenizer", "merges is missing", FETCH),
    with_metadata({f"{WORDS}merges": ["nospace"]}, "tokenizer", "an entry that is not two tokens", FETCH),
    with_metadata({f"{WORDS}merges": ["unheard of"]}, "tokenizer", "merges does not fit the tokens", FETCH),
    with_metadata({f"{WORDS}eos_token_id": 5000}, "tokenizer", "5000, not an id below 264", FETCH),
    with_metadata(
        {f"{WORDS}model": "llama", f"{WORDS}scores": ONE_SCORE}, "tokenizer", "scores has 1 entries", FETCH
    ),
    with_metadata(
        {"tokenizer.chat_template": "{% if"}, "chat_template", "not valid Jinja", "--chat-template"
    ),
    with_tensors({"token_embd.weight": None}, "model", "lacks the tensor token_embd.weight", DOWNLOAD),
    with_tensors({"output_norm.weight": None}, "model", "lacks model.norm.weight", MODEL),
    with_tensors({"blk.0.extra": f32(4)}, "model", "no place for blk.0.extra", "fetch both again"),
    with_tensors(
        {"blk.1.ffn_up.weight": f32(40, 32)}, "model", "has shape (40, 32), the conf", "fetch both again"
    ),
    with_tensors(
        {"blk.1.ffn_up.weight": Raw(20, (48, 32), bytes(48 * 18))},
        "model",
        "has type IQ4_NL, which is not supported",
        KNOWN,
        kind=Unsupported,
    ),
    with_tensors(
        {"blk.1.ffn_up.weight": Raw(24, (48, 32), bytes(48 * 32))},
        "model",
        "has type I8, which is not supported",
        KNOWN,
        kind=Unsupported,
    ),
    with_tensors(
        {"model.embed_tokens.weight": f32(VOCAB, 32)}, "model", "stand for the same parameter", DOWNLOAD
    ),
    with_tensors(
        {"rope_freqs.weight": Raw(1, (4,), bytes(8))}, "model", "is F16 of 8 bytes, not F32", DOWNLOAD
    ),
    with_tensors({"rope_freqs.weight": f32(4)}, "factors", "factors are not 4 positive numbers", FETCH),
]
