"""Ways to break a model's files: some know the format, others only bytes. All from one Random."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from tests.hostile.models import GGUF, KINDS, Safetensors
from tests.unit.checkpoint.write_gguf import ARRAY, F32, F64, I32, I64, STRING, U8, U32, U64, Raw, Typed

WORDS = (0, 1, 2, 3, 7, 31, 33, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63, 2**64 - 1)
SIZES = (0, 1, 2, 3, 5, 16, 31, 32, 64, 255, 256, 257, 512, 4096, 65537, 2**24, 2**31, 2**33, 2**40, 2**63)
FLOATS = (0.0, -1.0, 1e-30, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
HEADER = 4096  # bytes at the beginning that hold most of what says where things are


# --- bytes -----------------------------------------------------------------------------------


def flip(data: bytearray, r: Random) -> None:
    for _ in range(r.randint(1, 8)):
        data[_place(data, r)] ^= 1 << r.randrange(8)


def word(data: bytearray, r: Random) -> None:
    """A count, length or offset that is not what it was."""
    at, width = _place(data, r), r.choice((4, 8))
    data[at : at + width] = (r.choice(WORDS) % (1 << 8 * width)).to_bytes(width, "little")


def truncate(data: bytearray, r: Random) -> None:
    del data[_place(data, r) if r.random() < 0.5 else len(data) - 1 - r.randrange(min(64, len(data))) :]


def cut_out(data: bytearray, r: Random) -> None:
    at = _place(data, r)
    del data[at : at + r.randint(1, 64)]


def insert(data: bytearray, r: Random) -> None:
    at = _place(data, r)
    data[at:at] = r.randbytes(r.randint(1, 64))


def splice(data: bytearray, r: Random) -> None:
    """A piece of the file in another place of it."""
    here, there, length = _place(data, r), _place(data, r), r.randint(1, 256)
    data[here : here + length] = data[there : there + length]


def noise(data: bytearray, r: Random) -> None:
    at = _place(data, r)
    data[at : at + 64] = r.randbytes(len(data[at : at + 64]))


BYTES: tuple[Callable[[bytearray, Random], None], ...] = (flip, word, truncate, cut_out, insert, splice, noise)


def _place(data: bytearray, r: Random) -> int:
    return r.randrange(min(len(data), HEADER) if r.random() < 0.8 else len(data)) if data else 0


def mangle(data: bytes, r: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(r.randint(1, 3)):
        if changed:
            r.choice(BYTES)(changed, r)
    return bytes(changed)


# --- GGUF ------------------------------------------------------------------------------------


def gguf_number(m: GGUF, r: Random) -> None:
    """A number of the architecture: of another size, type or sign, a list, a word."""
    key = r.choice([k for k in m.metadata if k.startswith("llama.")])
    m.metadata[key] = r.choice(
        (
            lambda: Typed(U64, r.choice(SIZES) % 2**64),
            lambda: Typed(U32, r.choice(SIZES) % 2**32),
            lambda: Typed(I64, -r.choice(SIZES) % 2**63 * -1),
            lambda: Typed(F32, r.choice(FLOATS)),
            lambda: Typed(F64, r.choice(FLOATS)),
            lambda: Typed(ARRAY, (I32, [r.choice((0, 1, 2, 4, -1))] * r.randint(1, 40))),
            lambda: Typed(ARRAY, (U8, [])),
            lambda: True,
            lambda: "4",
        )
    )()


def gguf_key(m: GGUF, r: Random) -> None:
    key = r.choice(list(m.metadata))
    value = m.metadata.pop(key)
    if r.random() < 0.5:
        m.metadata[key[: r.randrange(len(key))] + r.choice(("", "x", "\0", "é" * 300))] = value


def gguf_extra(m: GGUF, r: Random) -> None:
    """Keys that switch on other ways of reading."""
    values: dict[str, tuple[Any, ...]] = {
        "llama.attention.key_length": (1, 16, 17, 20, 512, 528, Typed(U64, 2**40)),
        "llama.attention.sliding_window": (0, 1, 20, Typed(U64, 2**63)),
        "llama.rope.scaling.type": ("linear", "yarn", "longrope", ""),
        "llama.rope.scaling.factor": FLOATS,
        "llama.rope.dimension_count": (0, 1, 2, 63, 62, 128, Typed(U64, 2**33)),
        "general.architecture": ("qwen2", "qwen3", "", "llama\0"),
        "general.alignment": (0, 1, 8, 24, 64, 1 << 20, Typed(U64, 2**63), "32"),
        "tokenizer.ggml.eos_token_id": (-1 % 2**32, VOCAB_END, True, "2"),
        "split.count": (2,),
    }
    key = r.choice(list(values))
    m.metadata[key] = r.choice(values[key])


VOCAB_END = 40


def gguf_shape(m: GGUF, r: Random) -> None:
    """A tensor of other dimensions, with or without the bytes for them."""
    name, raw = _tensor(m, r)
    shape = list(raw.shape)
    if r.random() < 0.3:
        shape = shape[::-1] if r.random() < 0.5 else [*shape, r.choice((1, 2))]
    elif r.random() < 0.2:
        shape = [r.choice(SIZES) for _ in range(r.randint(0, 5))]
    else:
        shape[r.randrange(len(shape))] = r.choice(SIZES)
    m.tensors[name] = raw._replace(shape=tuple(shape), data=_filled(raw, shape, r))


def gguf_kind(m: GGUF, r: Random) -> None:
    """A tensor of another type, its bytes as they were, or as many as that type wants."""
    name, raw = _tensor(m, r)
    kind = r.choice((*KINDS.values(), *range(41), 2**31, 2**32 - 1))
    m.tensors[name] = raw._replace(kind=kind, data=_filled(raw._replace(kind=kind), list(raw.shape), r))


def gguf_offset(m: GGUF, r: Random) -> None:
    name, raw = _tensor(m, r)
    offset = r.choice((*WORDS, *(32 * w % 2**64 for w in WORDS), r.randrange(2**21), 32 * r.randrange(2**16)))
    m.tensors[name] = raw._replace(offset=offset)


def gguf_names(m: GGUF, r: Random) -> None:
    name, raw = _tensor(m, r)
    other, _ = _tensor(m, r)
    kind = r.randrange(4)
    if kind == 0:
        del m.tensors[name]
    elif kind == 1:
        m.tensors[name + r.choice(("", ".bias", "x", "\0"))] = raw
    elif kind == 2:  # two change places
        m.tensors[name], m.tensors[other] = m.tensors[other], raw
    else:
        m.tensors[r.choice(("rope_freqs.weight", "blk.0.attn_q.bias", "blk.9.attn_q.weight", "output.bias"))] = raw


def gguf_counts(m: GGUF, r: Random) -> None:
    key = r.choice(("tensor_count", "entry_count", "version", "align"))
    if key == "version":
        m.options[key] = r.choice((0, 1, 2, 4, 0x03000000))
    elif key == "align":
        m.options[key] = r.choice((1, 8, 16, 64, 4096))
    else:
        right = len(m.tensors if key == "tensor_count" else m.metadata)
        m.options[key] = r.choice((0, right - 1, right + 1, *WORDS)) % 2**64


def gguf_numbers_of_weights(m: GGUF, r: Random) -> None:
    """Scales that are infinite or none, codes of all ones: sound files with bad numbers."""
    name, raw = _tensor(m, r)
    data = bytearray(raw.data)
    for _ in range(r.randint(1, 64)):
        at = r.randrange(0, len(data) - 1, 2)
        data[at : at + 2] = r.choice((b"\x00\x7c", b"\x00\xfc", b"\xff\xff", b"\x01\x00", b"\xff\x7f"))
    m.tensors[name] = raw._replace(data=bytes(data))


GGUFS: tuple[Callable[[GGUF, Random], None], ...] = (
    gguf_number, gguf_key, gguf_extra, gguf_shape, gguf_kind, gguf_offset, gguf_names, gguf_counts,
    gguf_numbers_of_weights,
)  # fmt: skip
_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 8: (32, 34), 12: (256, 144), 14: (256, 210), 30: (1, 2)}


def _tensor(m: GGUF, r: Random) -> tuple[str, Raw]:
    name = r.choice(list(m.tensors)) if m.tensors else "token_embd.weight"
    return name, m.tensors.get(name, Raw(0, (1,), bytes(4)))


def _filled(raw: Raw, shape: list[int], r: Random) -> bytes:
    """As many bytes as such a tensor takes, where that is reasonable and luck will have it."""
    size, nbytes = _BLOCKS.get(raw.kind, (1, 4))
    elements = 1
    for n in shape:
        elements *= n
    wanted = elements // size * nbytes
    if wanted > 1 << 20 or r.random() < 0.3:
        return raw.data
    return (raw.data * (wanted // max(1, len(raw.data)) + 1))[:wanted]


def break_gguf(sound: GGUF, r: Random) -> bytes:
    """One broken file: described wrongly, mangled as bytes, or both."""
    model = sound.copy()
    for _ in range(r.randint(1, 2)) if r.random() < 0.75 else ():
        r.choice(GGUFS)(model, r)
    try:
        data = model.data()
    except struct.error:  # what cannot even be written down
        data = sound.data()
    return mangle(data, r) if r.random() < 0.35 or data == sound.data() else data


# --- safetensors -----------------------------------------------------------------------------


def st_config(m: Safetensors, r: Random) -> None:
    key = r.choice(list(m.config))
    m.config[key] = r.choice(
        (0, -1, 1, 3, 17, 2**31, 2**63, 10**30, 0.5, 1e400, None, True, "256", [], [256], {"a": 1}, "gelu", "x" * 300)
    )


def st_config_extra(m: Safetensors, r: Random) -> None:
    m.config |= r.choice(
        (
            {"quantization_config": {"quant_method": "fp8"}},
            {"rope_scaling": {"rope_type": "yarn", "factor": r.choice((0, -1, 1e30, "x"))}},
            {"rope_parameters": {"rope_type": "linear", "factor": 0}},
            {"sliding_window": r.choice((0, -5, 1, 2**40))},
            {"partial_rotary_factor": r.choice((0, 0.01, 1.5, 1e30))},
            {"architectures": r.choice(([], ["Qwen3ForCausalLM"], ["x"], "LlamaForCausalLM", [None]))},
            {"attention_bias": True},
            {"mlp_bias": True},
            {"max_position_embeddings": 2**40},
        )
    )


def st_entry(m: Safetensors, r: Random) -> None:
    """Type, shape or place of a tensor."""
    entry = _entry(m, r)
    part = r.choice(("dtype", "shape", "data_offsets"))
    if part == "dtype":
        entry[part] = r.choice(("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I64", "U8", "BOOL", "X", 3, ""))
    elif part == "shape":
        entry[part] = r.choice(([], [0], [-1], [2**63, 2], [2**32, 2**32], list(entry[part])[::-1], ["a"], 7))
    else:
        begin, end = entry[part]
        entry[part] = r.choice(
            ([end, begin], [begin, end + 1], [begin + 1, end], [0, 0], [0, 2**64], [-1, end], [begin], [2**63, 2**63 + end - begin])
        )


def st_names(m: Safetensors, r: Random) -> None:
    name = r.choice([n for n in m.header if n != "__metadata__"] or ["x"])
    entry = m.header.pop(name, {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
    if r.random() < 0.6:
        m.header[r.choice((name + "x", "lm_head.weight", "", "__metadata__", name.replace("0", "7")))] = entry


def st_swap(m: Safetensors, r: Random) -> None:
    """Two tensors in each other's place: sound, with wrong shapes or other numbers."""
    names = [n for n in m.header if n != "__metadata__"]
    if len(names) > 1:
        a, b = r.sample(names, 2)
        m.header[a], m.header[b] = m.header[b], m.header[a]


def st_body(m: Safetensors, r: Random) -> None:
    if r.random() < 0.5:
        m.body = m.body[: r.randrange(len(m.body))] if m.body else b""
    else:
        m.body += bytes(r.randint(1, 100))


SAFETENSORS: tuple[Callable[[Safetensors, Random], None], ...] = (
    st_config, st_config_extra, st_entry, st_names, st_swap, st_body,
)  # fmt: skip


def _entry(m: Safetensors, r: Random) -> dict[str, Any]:
    names = [n for n, e in m.header.items() if isinstance(e, dict) and _whole(e)]
    return m.header[r.choice(names)] if names else {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def _whole(entry: dict[str, Any]) -> bool:
    place, shape = entry.get("data_offsets"), entry.get("shape")
    return isinstance(place, list) and len(place) == 2 and isinstance(shape, list)


def break_safetensors(sound: Safetensors, r: Random) -> tuple[bytes, bytes]:
    """config.json and model.safetensors, one or both broken."""
    model = sound.copy()
    for _ in range(r.randint(1, 2)) if r.random() < 0.75 else ():
        r.choice(SAFETENSORS)(model, r)
    config, data = json.dumps(model.config).encode(), model.data()
    if (config, data) == (json.dumps(sound.config).encode(), sound.data()) or r.random() < 0.35:
        if r.random() < 0.25:
            config = mangle(config, r)
        else:
            data = mangle(data, r)
    return config, data
