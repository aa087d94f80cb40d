"""StructuredOutputsParams: what form an answer must have, with vLLM's names.

Checks that one form is asked for; what is in it is checked where a request is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from octavo.config.grammar import GrammarConfig
from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.front import checks
from octavo.grammar.check import Checker
from octavo.grammar.choose import problem_finder
from octavo.grammar.spec import KINDS, read

FIELD = "structured_outputs"
_LONGEST_PATTERN = 256


class StructuredOutputsParams(msgspec.Struct, kw_only=True, frozen=True, repr_omit_defaults=True):
    """Exactly one of the first six. `json` is a JSON schema (an object or its text), `grammar` is
    Lark or EBNF, `structural_tag` xgrammar's document. `whitespace_pattern` is a regular expression
    for white space between the parts of JSON."""

    json: Any = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        asked = [kind for kind in KINDS if _asks(getattr(self, kind))]
        if len(asked) != 1:
            what = " and ".join(asked) or "nothing"
            hint = f"give exactly one of {', '.join(KINDS)}"
            raise UserError(f"{FIELD} asks for {what}", hint=hint, field=FIELD)
        for name in ("disable_any_whitespace", "disable_additional_properties"):
            checks.switch(name, getattr(self, name))
        if self.whitespace_pattern is not None:
            checks.texts("whitespace_pattern", self.whitespace_pattern, most=1, longest=_LONGEST_PATTERN)

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if _asks(getattr(self, kind)))

    @classmethod
    def of(cls, value: Any) -> StructuredOutputsParams | None:
        """From what a caller gives: nothing, an instance, or a mapping of its fields."""
        if value is None or isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            hint = f"an object with one of {', '.join(KINDS)}"
            raise UserError(f"{FIELD} is not an object", hint=hint, field=FIELD)
        if unknown := [str(key)[:40] for key in value if key not in cls.__struct_fields__]:
            hint = f"known: {', '.join(cls.__struct_fields__)}"
            raise UserError(f"{FIELD} has no {unknown[0]!r}", hint=hint, field=FIELD)
        given = {key: one for key, one in value.items() if one is not None}
        return cls(**given)


class Grammars:
    """Makes specs the core can compile; one for the whole front, so that it remembers good ones."""

    def __init__(self, settings: GrammarConfig) -> None:
        self._settings = settings
        finder = problem_finder(settings.structured_outputs_backend)
        self._checker = Checker(settings.grammar_cache, finder)

    def spec(self, asked: StructuredOutputsParams) -> GrammarSpec:
        """UserError names what in it is too large, broken or cannot be enforced."""
        settings, kind = self._settings, asked.kind
        tight = asked.disable_any_whitespace or settings.disable_any_whitespace
        spec = read(
            kind,
            getattr(asked, kind),
            most=settings.max_grammar_bytes,
            whitespace="" if tight else asked.whitespace_pattern,
            closed=asked.disable_additional_properties or settings.disable_additional_properties,
        )
        return self._checker.check(spec)


def _asks(value: Any) -> bool:
    return value is not None and value is not False
