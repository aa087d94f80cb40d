"""xgrammar behind the backend protocol. The only file that knows the library, which is an extra
(`pip install octavo[xgrammar]`): it brings torch, transformers and triton with it.

Special tokens take no part in its grammars: a structural tag is spelled out in ordinary ones. It
cannot say which tokens are certain, so nothing is computed ahead; and it lets bytes through that are
no UTF-8, which no model that was trained on text is likely to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xgrammar

from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.grammar.backend import Vocabulary
from octavo.grammar.gaps import gap
from octavo.grammar.tags import from_structures
from octavo.grammar.xgr_schema import rewritten, unheld

_SOURCE = re.compile(r"^\[[0-9:]+\] \S+:[0-9]+: ")
_THREADS = 2
_CACHE = 64 << 20  # bytes of what the library keeps of compiled grammars
_BLANKS = 16  # most white space in one place of JSON


class XGrammarMatcher:
    """Rejected tokens leave it as it was. End tokens never reach it."""

    def __init__(self, inner: xgrammar.GrammarMatcher, words: int) -> None:
        self._inner = inner
        self._words = words

    def copy(self) -> XGrammarMatcher:
        return XGrammarMatcher(self._inner.fork(), self._words)

    def accept(self, token: int) -> bool:
        return bool(self._inner.accept_token(token))

    def rollback(self, count: int) -> None:
        if count:
            self._inner.rollback(count)

    def fill(self) -> bytes:
        bits = np.full((1, self._words), -1, np.int32)
        self._inner.fill_next_token_bitmask(bits, 0)
        return bits.tobytes()

    def forced(self) -> Sequence[int]:
        return ()

    @property
    def may_end(self) -> bool:
        return bool(self._inner.is_completed())

    @property
    def error(self) -> str | None:
        return None


class XGrammarBackend:
    def __init__(self, vocabulary: Vocabulary) -> None:
        size = len(vocabulary.tokens)
        self._words = -(-size // 32)
        hidden = {*vocabulary.special, *vocabulary.eos}
        texts = [b"" if id in hidden else token for id, token in enumerate(vocabulary.tokens)]
        info = xgrammar.TokenizerInfo(texts, vocab_size=size, stop_token_ids=list(vocabulary.eos))
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=_THREADS, cache_limit_bytes=_CACHE)

    def compile(self, spec: GrammarSpec) -> XGrammarMatcher:
        return XGrammarMatcher(xgrammar.GrammarMatcher(_compiled(self._compiler, spec)), self._words)


def problem(spec: GrammarSpec) -> str | None:
    """What is wrong with a grammar, for any vocabulary; None when nothing is."""
    info = xgrammar.TokenizerInfo([bytes((n,)) for n in range(256)], stop_token_ids=[0])
    try:
        _compiled(xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False), spec)
    except UserError as error:
        return error.message
    return None


def _compiled(compiler: xgrammar.GrammarCompiler, spec: GrammarSpec) -> xgrammar.CompiledGrammar:
    if spec.whitespace:
        raise UserError("xgrammar takes no pattern for white space", hint="leave whitespace_pattern out")
    try:
        return _KINDS[spec.kind](compiler, spec)
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:  # what the library raises for bad grammars
        raise UserError(_reason(str(error)), hint="simplify the grammar") from error


def _json(compiler: xgrammar.GrammarCompiler, spec: GrammarSpec) -> xgrammar.CompiledGrammar:
    tight = spec.whitespace == ""
    return compiler.compile_json_schema(
        json.dumps(_checked(json.loads(spec.text))),
        any_whitespace=not tight,
        separators=(",", ":") if tight else None,
        max_whitespace_cnt=None if tight else _BLANKS,
        strict_mode=True,
    )


def _tag(compiler: xgrammar.GrammarCompiler, spec: GrammarSpec) -> xgrammar.CompiledGrammar:
    document = json.loads(spec.text)
    whole = document["format"] if "format" in document else from_structures(document)
    return compiler.compile_structural_tag({"type": "structural_tag", "format": _tag_node(whole)})


def _tag_node(node: Any) -> Any:
    """A structural tag with its schemas checked and rewritten."""
    if isinstance(node, list):
        return [_tag_node(one) for one in node]
    if not isinstance(node, Mapping):
        return node
    return {key: _checked(value) if key == "json_schema" else _tag_node(value) for key, value in node.items()}


def _checked(schema: Any) -> Any:
    if (why := gap(schema)) is not None:
        raise UserError(why)
    if (what := unheld(schema)) is not None:
        raise UserError(f"xgrammar would not hold an answer to {what}: use the guidance backend")
    return rewritten(schema)


def _choice(compiler: xgrammar.GrammarCompiler, spec: GrammarSpec) -> xgrammar.CompiledGrammar:
    words = " | ".join(json.dumps(word, ensure_ascii=False) for word in json.loads(spec.text))
    return compiler.compile_grammar(f"root ::= {words}")


def _lark(compiler: xgrammar.GrammarCompiler, spec: GrammarSpec) -> xgrammar.CompiledGrammar:
    raise UserError("Lark grammars are for the guidance backend; write EBNF, with ::=")


_KINDS: dict[str, Callable[[xgrammar.GrammarCompiler, GrammarSpec], xgrammar.CompiledGrammar]] = {
    "json": _json,
    "regex": lambda compiler, spec: compiler.compile_regex(spec.text),
    "choice": _choice,
    "ebnf": lambda compiler, spec: compiler.compile_grammar(spec.text),
    "lark": _lark,
    "structural_tag": _tag,
}


def _reason(message: str) -> str:
    """The library's message without its source line."""
    first = next((line for line in message.splitlines() if line.strip()), "no reason given")
    return _SOURCE.sub("", first)[:500]
