"""What a reader of tokenizer files hands to Tokenizer. Knows no file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import tokenizers


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """`backend` adds the tokens that belong around a text by its own post-processor.

    `templates` are chat templates by name ("default", "tool_use"). `eos` holds every id that is
    known to end a turn. `source` is the path shown in errors.
    """

    backend: tokenizers.Tokenizer
    source: str
    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    unknown: int | None = None
    templates: Mapping[str, str] = field(default_factory=dict)
