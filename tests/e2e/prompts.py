"""Prompts drawn from a seed: code, Unicode, digits, prose, and one of 2,000 tokens."""

from __future__ import annotations

import random

WORDS = (
    "river stone light morning engine paper garden winter copper letter shadow harbour music window thunder bridge "
    "market silver forest pencil island mirror candle orchard compass lantern meadow anchor feather voyage"
).split()
CODE = [
    "def {a}({b}, {c}=None):\n    for i in range({n}):\n        {b}.append(i * {n})\n    return",
    "class {a}:\n    def __init__(self, {b}):\n        self.{b} = {b}\n\n    def {c}(self):\n",
    "SELECT {a}, COUNT(*) FROM {b} WHERE {c} > {n} GROUP BY",
    "#include <stdio.h>\nint main(void) {{\n    int {a} = {n};\n    while ({a}-- > 0)",
    "import {a}\n\ntry:\n    {b} = {a}.open('{c}.txt')\nexcept OSError as",
]
UNICODE = "καλημέρα 世界 مرحبا 🚀🌍 naïve façade ÅÄÖ שלום привет こんにちは 안녕하세요 ½ ∑ ≠ ∞ é ñ".split()
LONG = 2000


def draw(count: int, seed: int) -> list[str]:
    """`count` prompts; the same for the same seed."""
    rng = random.Random(seed)
    kinds = [_code, _unicode, _digits, _prose]
    return [kinds[i % len(kinds)](rng) for i in range(count)]


def long_ids(vocab_size: int, seed: int, length: int = LONG) -> list[int]:
    """Random token ids, past the first few control tokens."""
    rng = random.Random(seed)
    return [rng.randrange(100, vocab_size) for _ in range(length)]


def _code(rng: random.Random) -> str:
    a, b, c = rng.sample(WORDS, 3)
    return rng.choice(CODE).format(a=a, b=b, c=c, n=rng.randint(2, 999))


def _unicode(rng: random.Random) -> str:
    return " ".join(rng.choice(UNICODE) for _ in range(rng.randint(3, 9)))


def _digits(rng: random.Random) -> str:
    return ", ".join(str(rng.randrange(10 ** rng.randint(1, 6))) for _ in range(rng.randint(4, 12))) + ","


def _prose(rng: random.Random) -> str:
    return "The " + " ".join(rng.choice(WORDS) for _ in range(rng.randint(4, 25)))
