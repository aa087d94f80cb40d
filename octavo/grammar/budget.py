"""A limit on a thought, beside whatever grammar the answer has: when its tokens are used up, the closing tag
must follow. Knows no grammar library; a matcher around another one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from octavo.core.request import GrammarSpec, ThoughtLimit
from octavo.grammar.backend import GrammarBackend, Matcher, Vocabulary

ANY = "any"  # the kind of a spec that only limits the thought
_BEFORE, _INSIDE, _AFTER = range(3)


class Anything:
    """No grammar at all: every token fits, and every output may end."""

    def __init__(self, bits: bytes) -> None:
        self._bits = bits

    def copy(self) -> Anything:
        return self

    def accept(self, token: int) -> bool:
        return True

    def rollback(self, count: int) -> None:
        """There is nothing to take back."""

    def fill(self) -> bytes:
        return self._bits

    def forced(self) -> Sequence[int]:
        return ()

    @property
    def may_end(self) -> bool:
        return True

    @property
    def error(self) -> str | None:
        return None


class _State(NamedTuple):
    """After one token. `tail` is the text in which a tag may be under way; `closing` counts tokens of
    the closing tag that were forced."""

    phase: int
    spent: int
    tail: bytes
    closing: int = 0


class LimitedThought:
    """`close` are the tokens of the closing tag."""

    def __init__(
        self, inner: Matcher, limit: ThoughtLimit, close: tuple[int, ...], vocabulary: Vocabulary
    ) -> None:
        self._inner = inner
        self._limit = limit
        self._open, self._end = limit.open.encode(), limit.close.encode()
        self._close = close
        self._vocabulary = vocabulary
        self._states = [_State(_INSIDE if limit.inside else _BEFORE, 0, b"")]

    def copy(self) -> LimitedThought:
        twin = LimitedThought(self._inner.copy(), self._limit, self._close, self._vocabulary)
        twin._states = list(self._states)
        return twin

    def accept(self, token: int) -> bool:
        now = self._states[-1]
        if self._over(now) and token != self._close[now.closing]:
            return False
        if not self._inner.accept(token):
            return False
        self._states.append(self._after(now, token))
        return True

    def rollback(self, count: int) -> None:
        if count:
            del self._states[-count:]
            self._inner.rollback(count)

    def fill(self) -> bytes:
        now = self._states[-1]
        if not self._over(now):
            return self._inner.fill()
        size = -(-len(self._vocabulary.tokens) // 32) * 4
        return (1 << self._close[now.closing]).to_bytes(size, "little")

    def forced(self) -> Sequence[int]:
        now = self._states[-1]
        return self._close[now.closing :] if self._over(now) else self._inner.forced()

    @property
    def may_end(self) -> bool:
        return not self._over(self._states[-1]) and self._inner.may_end

    @property
    def error(self) -> str | None:
        return self._inner.error

    def _over(self, state: _State) -> bool:
        return state.phase == _INSIDE and state.spent >= self._limit.tokens

    def _after(self, now: _State, token: int) -> _State:
        if now.phase == _AFTER:
            return now
        tail = now.tail + self._vocabulary.tokens[token]
        if now.phase == _BEFORE:
            return self._opening(tail)
        if self._over(now):
            last = now.closing + 1 == len(self._close)
            return _State(_AFTER, now.spent, b"") if last else now._replace(closing=now.closing + 1)
        if self._end in tail:
            return _State(_AFTER, now.spent, b"")
        return _State(_INSIDE, now.spent + 1, tail[-len(self._end) :])

    def _opening(self, tail: bytes) -> _State:
        """The tag counts at the beginning only: an answer that has begun may talk about tags."""
        text = tail.lstrip()
        if text.startswith(self._open):
            return _State(_INSIDE, 0, text[len(self._open) :])
        return _State(_BEFORE if self._open.startswith(text) else _AFTER, 0, text)


class LimitingBackend:
    """Another backend, which need not know of limits."""

    def __init__(self, backend: GrammarBackend, vocabulary: Vocabulary) -> None:
        self._backend = backend
        self._vocabulary = vocabulary
        size = len(vocabulary.tokens)
        self._all = ((1 << size) - 1).to_bytes(-(-size // 32) * 4, "little")

    def compile(self, spec: GrammarSpec) -> Matcher:
        inner: Matcher = Anything(self._all) if spec.kind == ANY else self._backend.compile(spec)
        if spec.thought is None:
            return inner
        return LimitedThought(inner, spec.thought, self._tokens_of(spec.thought.close), self._vocabulary)

    def _tokens_of(self, tag: str) -> tuple[int, ...]:
        """The one token that is the tag, as models have learnt it, or those that spell it."""
        text = tag.encode()
        one = next((id for id, token in enumerate(self._vocabulary.tokens) if token == text), None)
        return (one,) if one is not None else tuple(self._vocabulary.encode(tag))
