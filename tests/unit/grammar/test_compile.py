"""Compiling beside the loop: once for equal grammars, a bounded number kept."""

from __future__ import annotations

import threading

import pytest

from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.grammar.compile import Compiler
from tests.unit.grammar.small import VOCABULARY, fits


class Counting:
    """A backend that counts, and waits where the grammar says so."""

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.go = threading.Event()

    def compile(self, spec: GrammarSpec):
        from octavo.grammar.guidance import GuidanceBackend

        self.compiled.append(spec.text)
        if spec.text == "slow":
            assert self.go.wait(30)
        return GuidanceBackend(VOCABULARY).compile(spec)


@pytest.fixture
def backend():
    return Counting()


@pytest.fixture
def compiler(backend):
    made = Compiler(lambda: backend, keep=2)
    yield made
    backend.go.set()
    made.close()


def regex(text: str) -> GrammarSpec:
    return GrammarSpec("regex", text)


def test_equal_grammars_are_compiled_once(compiler, backend):
    first, second = compiler.start(regex("a")), compiler.start(regex("a"))
    assert first is second and fits(first.result(30), "a")
    assert backend.compiled == ["a"] and (compiler.compiled, compiler.found) == (1, 1)


def test_a_slow_one_does_not_hold_up_the_next(compiler, backend):
    slow = compiler.start(regex("slow"))
    assert fits(compiler.start(regex("b")).result(30), "b")
    assert not slow.done()
    backend.go.set()
    assert fits(slow.result(30), "slow")


def test_only_so_many_are_kept(compiler, backend):
    for text in ("a", "b", "a", "c", "a", "b"):
        compiler.start(regex(text)).result(30)
    assert backend.compiled == ["a", "b", "c", "b"]


def test_a_broken_grammar_and_a_broken_backend_say_so(compiler):
    with pytest.raises(UserError):
        compiler.start(regex("(")).result(30)

    def fail():
        raise UserError("no vocabulary")

    broken = Compiler(fail, keep=2)
    with pytest.raises(UserError, match="no vocabulary"):
        broken.start(regex("a")).result(30)
    broken.close()
