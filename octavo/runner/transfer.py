"""The only place where values leave the device. Arrays become Python values for messages here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from octavo.core.request import PositionLogprobs
from octavo.sampling.logprobs import Scores


def to_host(tensor: Tensor) -> NDArray[np.float32]:
    """A float32 tensor as an array; on a CPU the same memory."""
    return tensor.float().cpu().numpy()


def pack(values: NDArray[np.integer]) -> bytes:
    """Integers as int32, the wire form of StepResult."""
    return values.astype(np.int32, copy=False).tobytes()


def positions(scores: Scores) -> tuple[PositionLogprobs, ...]:
    """One message entry for each scored position."""
    columns = (
        scores.token.tolist(),
        scores.logprob.tolist(),
        scores.rank.tolist(),
        map(tuple, scores.top_ids.tolist()),
        map(tuple, scores.top_logprobs.tolist()),
        [()] * len(scores.token) if scores.top_ranks is None else map(tuple, scores.top_ranks.tolist()),
    )
    return tuple(PositionLogprobs(*entry) for entry in zip(*columns, strict=True))
