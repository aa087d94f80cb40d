"""Fill-in-the-middle: how code models are asked for what stands between two texts.

A family is recognised by its tokens; nothing else of the model is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from octavo.core.errors import Unsupported, UserError
from octavo.text.tokenizer import Tokenizer

_KNOWN = "Qwen2.5-Coder, CodeLlama, DeepSeek-Coder, StarCoder2, Codestral"
_PROBE = "☺"  # one of no word: a text after it does not begin with the tokenizer's own blank


class Family(NamedTuple):
    """`before` the prefix, `between`, `after` the suffix; `suffix_first` swaps the two texts. `ends`
    are tokens with which its models end, beyond their end of text. `glued`: words of this tokenizer
    begin with a blank of its own, which the suffix must not get."""

    before: str
    between: str
    after: str = ""
    suffix_first: bool = False
    ends: tuple[str, ...] = ()
    glued: bool = False


FAMILIES: tuple[Family, ...] = (
    # Qwen2.5-Coder, CodeGemma
    Family(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>",
        ends=("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    ),
    # StarCoder, StarCoder2, Granite code
    Family("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ends=("<fim_pad>", "<file_sep>", "<repo_name>")),
    # SantaCoder
    Family("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ends=("<fim-pad>",)),
    # DeepSeek-Coder
    Family("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    # CodeLlama
    Family("▁<PRE>", "▁<SUF>", "▁<MID>", ends=("▁<EOT>",), glued=True),
    # Codestral
    Family("[SUFFIX]", "[PREFIX]", suffix_first=True),
    # Seed-Coder
    Family("<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>", suffix_first=True),
)  # fmt: skip


def family_of(tokenizer: Tokenizer) -> Family | None:
    """The first whose tokens this vocabulary has."""
    for family in FAMILIES:
        marks = [mark for mark in (family.before, family.between, family.after) if mark]
        if all(tokenizer.token_id(mark) is not None for mark in marks):
            return family
    return None


def read(
    tokenizer: Tokenizer | None, prefix: Any, suffix: str, truncate: int | None
) -> tuple[Callable[..., tuple[int, ...]], list[int]]:
    """What makes the prompt's ids, and the ids that end an answer. UserError or Unsupported."""
    family = None if tokenizer is None else family_of(tokenizer)
    if tokenizer is None or family is None:
        raise Unsupported(
            "suffix is not available: this model's tokenizer has no tokens for filling in",
            hint=f"serve a model that was trained for it ({_KNOWN}), or put all of the text into prompt",
            field="suffix",
        )
    if not isinstance(prefix, str):
        raise UserError("suffix needs a prompt of text", hint="send text, not token ids", field="prompt")
    if truncate is not None:
        raise UserError(
            "truncate_prompt_tokens and suffix exclude each other",
            hint="shorten the texts on both sides of the gap",
            field="truncate_prompt_tokens",
        )
    found = (tokenizer.token_id(end) for end in family.ends)
    ends = [id for id in found if id is not None]

    def ids(*, add_special: bool) -> tuple[int, ...]:
        return tuple(_around(tokenizer, add_special) + _ids(tokenizer, family, prefix, suffix))

    return ids, ends


def _ids(tokenizer: Tokenizer, family: Family, prefix: str, suffix: str) -> list[int]:
    """What users wrote cannot become a special token."""
    before = tokenizer.encode(prefix, add_special=False, parse_special=False)
    after = _glued(tokenizer, suffix) if family.glued else _plain(tokenizer, suffix)
    first, second = (after, before) if family.suffix_first else (before, after)
    marks = (_mark(tokenizer, mark) for mark in (family.before, family.between, family.after))
    opening, middle, closing = marks
    return [*opening, *first, *middle, *second, *closing]


def _around(tokenizer: Tokenizer, add_special: bool) -> list[int]:
    """The token that every text of this model begins with, if any."""
    return tokenizer.encode("", add_special=True) if add_special else []


def _mark(tokenizer: Tokenizer, mark: str) -> list[int]:
    id = tokenizer.token_id(mark) if mark else None
    return [] if id is None else [id]


def _plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special=False, parse_special=False)


def _glued(tokenizer: Tokenizer, text: str) -> list[int]:
    """Without the blank that the tokenizer puts before a text."""
    probe, both = _plain(tokenizer, _PROBE), _plain(tokenizer, _PROBE + text)
    return both[len(probe) :] if both[: len(probe)] == probe else _plain(tokenizer, text)
