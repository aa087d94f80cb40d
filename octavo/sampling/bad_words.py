"""bad_words: the last token of a word is excluded where the output ends in all tokens before it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from octavo.core.messages import Admission
from octavo.sampling.stage import Index, Logits, Rows


class _Words(NamedTuple):
    prompt: int
    single: Index  # words of one token
    longer: tuple[NDArray[np.int32], ...]


class BadWords:
    def __init__(self, slots: int) -> None:
        self._words: dict[int, _Words] = {}

    def admit(self, a: Admission) -> bool:
        if a.sampling is None or not a.sampling.bad_words:
            return False
        words = a.sampling.bad_words
        single = np.array([w[0] for w in words if len(w) == 1], np.int64)
        longer = tuple(np.array(w, np.int32) for w in words if len(w) > 1)
        self._words[a.slot] = _Words(a.prompt, single, longer)
        return True

    def release(self, slot: int) -> None:
        del self._words[slot]

    def apply(self, logits: Logits, rows: Rows, at: Index) -> None:
        for i in at:
            words = self._words[int(rows.slot[i])]
            logits[i, words.single] = -np.inf
            output = rows.output(i, words.prompt)
            for word in words.longer:
                lead = len(word) - 1
                if lead <= len(output) and np.array_equal(output[len(output) - lead :], word[:-1]):
                    logits[i, word[-1]] = -np.inf
