"""The shapes a prompt may come in, brought to one. Knows nothing of tokenizers or models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypedDict

from octavo.core.errors import Unsupported, UserError

LONGEST_SALT = 1024  # characters
_KEYS = ("prompt", "prompt_token_ids", "cache_salt", "token_type_ids")
_MEDIA = ("multi_modal_data", "mm_processor_kwargs", "multi_modal_uuids")


class TextPrompt(TypedDict, total=False):
    """A prompt as text, for programs that like to name its type."""

    prompt: str
    cache_salt: str


class TokensPrompt(TypedDict, total=False):
    """A prompt as ids; `prompt` is the text they came from, if any."""

    prompt_token_ids: list[int]
    prompt: str
    cache_salt: str


PromptType = str | Sequence[int] | TextPrompt | TokensPrompt


class Form(NamedTuple):
    """A prompt as text, as ids, or as ids with the text they came from."""

    text: str | None
    ids: Sequence[int] | None
    salt: str = ""


def read_prompt(prompt: Any) -> Form:
    """Text, token ids, {"prompt": text} or {"prompt_token_ids": ids}, the last two with an optional
    "cache_salt". UserError says what is wrong with anything else."""
    if isinstance(prompt, str):
        return Form(prompt, None)
    if isinstance(prompt, Mapping):
        return _from_mapping(prompt)
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes):
        return Form(None, prompt)
    raise UserError(
        f"a prompt cannot be of type {type(prompt).__name__}",
        hint='text, a list of token ids, {"prompt": ...} or {"prompt_token_ids": ...}',
        field="prompt",
    )


def _from_mapping(prompt: Mapping[str, Any]) -> Form:
    for name in _MEDIA:
        if prompt.get(name):
            raise Unsupported(
                f"{name} is not supported: this model reads text only", hint="leave it out", field=name
            )
    for name in ("prompt_embeds", "encoder_prompt", "decoder_prompt", "data"):
        if prompt.get(name) is not None:
            raise Unsupported(f"{name} is not supported", hint="send prompt or prompt_token_ids", field=name)
    unknown = [str(key)[:40] for key in prompt if key not in (*_KEYS, *_MEDIA)]
    if unknown:
        raise UserError(
            f"a prompt has no field {unknown[0]!r}", hint=f"known: {', '.join(_KEYS[:3])}", field="prompt"
        )
    text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
    if text is None and ids is None:
        raise UserError(
            "the prompt has neither prompt nor prompt_token_ids", hint="give one of them", field="prompt"
        )
    if text is not None and not isinstance(text, str):
        raise UserError(
            f"prompt is of type {type(text).__name__}, not text", hint="give text", field="prompt"
        )
    return Form(text, ids, read_salt(prompt.get("cache_salt")))


def read_salt(salt: Any) -> str:
    """UserError unless it is absent or text of at most LONGEST_SALT characters."""
    if salt is None:
        return ""
    if not isinstance(salt, str) or not 0 < len(salt) <= LONGEST_SALT:
        raise UserError(
            "cache_salt is empty, too long or not text",
            hint=f"text of 1 to {LONGEST_SALT} characters",
            field="cache_salt",
        )
    return salt


def check_ids(ids: Any, vocab: int, field: str) -> tuple[int, ...]:
    """A tuple of ints in [0, vocab). Bad ids would harm neighbours on the device."""
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Sequence):
        raise UserError(
            f"{field} is of type {type(ids).__name__}, not a list of ids", hint=_ids(vocab), field=field
        )
    if not ids or (set(map(type, ids)) == {int} and min(ids) >= 0 and max(ids) < vocab):
        return tuple(ids)
    return tuple(_check_id(id, vocab, f"{field}[{at}]") for at, id in enumerate(ids))


def _check_id(id: Any, vocab: int, where: str) -> int:
    if isinstance(id, bool) or not isinstance(id, Integral):
        raise UserError(
            f"{where} is of type {type(id).__name__}, not a token id", hint=_ids(vocab), field=where
        )
    if not 0 <= (plain := int(id)) < vocab:
        shown = str(plain) if abs(plain) < 1 << 63 else "a huge number"
        raise UserError(f"{where} is {shown}", hint=_ids(vocab), field=where)
    return plain


def _ids(vocab: int) -> str:
    return f"token ids of this model are 0 to {vocab - 1}"


def several(prompts: Any) -> bool:
    """Whether this is a list of prompts and not one prompt (a list of ids is one)."""
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Sequence):
        return False
    return not prompts or not isinstance(prompts[0], Integral)
