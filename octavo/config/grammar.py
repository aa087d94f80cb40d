"""Structured output: which backend, and how much of it one request may ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octavo.config.option import option
from octavo.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class GrammarConfig:
    structured_outputs_backend: str = option(
        "auto",
        "what compiles JSON schemas and grammars; auto: guidance",
        choices=("auto", "guidance", "xgrammar"),
    )
    disable_any_whitespace: bool = option(False, "JSON under a schema has no white space between its parts")
    disable_additional_properties: bool = option(
        False, "objects of a JSON schema have only the properties it lists, where it does not say otherwise"
    )
    jump_ahead: bool = option(
        True, "tokens that a grammar leaves no choice about are computed together, not one a step"
    )
    max_grammar_bytes: int = option(
        65536, "longest JSON schema or grammar of one request", low=1, kind="size"
    )
    grammar_timeout: float = option(
        10.0, "seconds a grammar may take to compile before its request fails", low=0.1
    )
    grammar_cache: int = option(
        256, "compiled grammars kept for the next request that asks for the same", low=1
    )


_JSON = "structured_outputs_config"
_KEYS = {"backend": "structured_outputs_backend"}
_SAME = ("disable_any_whitespace", "disable_additional_properties")
_NEUTRAL = {"disable_fallback": (False, True, None), "reasoning_parser": ("", None)}


def unfold(values: Mapping[str, Any]) -> dict[str, Any]:
    """vLLM's `structured_outputs_config` as the settings above. UserError for a key nobody knows."""
    rest = dict(values)
    given = rest.pop(_JSON, None)
    try:
        parts = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        parts = given
    if parts is None:
        return rest
    if not isinstance(parts, Mapping):
        raise UserError(f"{_JSON} is not a JSON object", hint='{"backend": "auto"}', field=_JSON)
    for key, value in parts.items():
        if key in _KEYS or key in _SAME:
            rest[_KEYS.get(str(key), str(key))] = value
        elif value not in _NEUTRAL.get(key, ()):
            known = ", ".join((*_KEYS, *_SAME))
            raise UserError(f"{_JSON}: {str(key)[:40]!r} cannot be set", hint=f"known: {known}", field=_JSON)
    return rest
