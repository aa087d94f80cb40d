"""Fields of the dialect that mean something elsewhere and nothing here.

A neutral value is accepted, since clients send those unasked; any other would change the
answer, so it is refused by name instead of being ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from octavo.core.errors import Unsupported


class Refusal(NamedTuple):
    neutral: tuple[Any, ...] = ()  # None is always neutral
    hint: str = "leave it out"


REFUSED: dict[str, Refusal] = {
    "best_of": Refusal((1,), hint="use n"),
    "logits_processors": Refusal(([],)),
    "kv_transfer_params": Refusal(({},)),
    "mm_processor_kwargs": Refusal(({},), hint="only text is available"),
    "prompt_embeds": Refusal(hint="send prompt as text or token ids"),
    "functions": Refusal(([],), hint="use tools"),
    "function_call": Refusal(("none", "auto"), hint="use tool_choice"),
    "modalities": Refusal((["text"],), hint='only ["text"] is available'),
    "audio": Refusal(hint="only text is available"),
    "prediction": Refusal(),
    "web_search_options": Refusal(),
    "verbosity": Refusal(("medium",), hint="ask for brevity in a message"),
    "documents": Refusal(([],), hint="put them into a message"),
    "chat_template": Refusal(hint="start the server with --chat-template"),
    "media_io_kwargs": Refusal(({},), hint="only text is available"),
}


def refuse_unavailable(body: msgspec.Struct, refused: Mapping[str, Refusal] = REFUSED) -> None:
    """Unsupported, naming the first field that asks for something we do not have."""
    for name in body.__struct_fields__:
        if (refusal := refused.get(name)) is not None:
            _check(getattr(body, name), refusal, name)


def _check(value: Any, refusal: Refusal, field: str) -> None:
    neutral = any(type(value) is type(ok) and value == ok for ok in refusal.neutral)
    if value is not None and not neutral:
        raise Unsupported(f"{field} is not available on this server", hint=refusal.hint, field=field)
