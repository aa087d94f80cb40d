"""Random prompts of exact length, the same for a seed. Knows no engine: it only mixes token ids."""

from __future__ import annotations

import random
from collections.abc import Sequence

# Tokens are drawn from those of this text: ordinary words for any tokenizer, never special ones.
TEXT = (
    "the river runs past an old stone bridge where children fish in summer while trains cross above them "
    "every hour and people read letters from far away friends about music food weather science numbers "
    "gardens winter mountains ships glass paper bread doctors teachers markets windows questions answers"
)


def random_prompts(seed: int, count: int, length: int, pool: Sequence[int]) -> list[list[int]]:
    """`count` prompts of `length` ids out of `pool`."""
    dice = random.Random(seed)
    return [[dice.choice(pool) for _ in range(length)] for _ in range(count)]
