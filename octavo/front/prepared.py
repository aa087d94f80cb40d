"""A request between its building and its answer."""

from __future__ import annotations

import msgspec

from octavo.core.request import EngineRequest
from octavo.front.params import SamplingParams


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """A request ready for the engine: one row for each of its n answers.

    `id` is the user's; the rows' ids are unique in this process. `arrived` is of the wall clock.
    """

    id: str
    prompt: str | None
    token_ids: tuple[int, ...]
    params: SamplingParams
    requests: tuple[EngineRequest, ...]
    arrived: float = 0.0
    prompt_only: bool = False
