"""A thought that takes too long is closed, with and without a grammar behind it."""

from __future__ import annotations

import pytest

from octavo.core.request import GrammarSpec
from octavo.grammar.backend import Matcher
from octavo.grammar.budget import LimitingBackend
from octavo.grammar.guidance import GuidanceBackend
from octavo.grammar.thought import Thought, after_thought, limited
from tests.unit.grammar.small import END, SPECIAL, VOCABULARY, allowed

BACKEND = LimitingBackend(GuidanceBackend(VOCABULARY), VOCABULARY)
CLOSE = list(b"</t>")
OUTSIDE, INSIDE = Thought("<t>", "</t>", False), Thought("<t>", "</t>", True)


def made(thought: Thought, tokens: int, spec: GrammarSpec | None = None) -> Matcher:
    if spec is not None:
        spec = after_thought(spec, thought)
    return BACKEND.compile(limited(spec, thought, tokens))


def take(one: Matcher, text: bytes) -> bool:
    return all(map(one.accept, text))


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_the_closing_tag_must_follow(tokens):
    one = made(INSIDE, tokens)
    assert take(one, b"abc"[:tokens])
    for at, byte in enumerate(CLOSE):
        assert allowed(one) == {byte} and list(one.forced()) == CLOSE[at:] and not one.may_end
        assert not one.accept(ord("x")) and one.accept(byte)
    assert one.may_end and not one.forced() and len(allowed(one)) == len(VOCABULARY.tokens)
    assert take(one, b"x <t> what comes after is free") and one.accept(END)


def test_a_thought_that_ends_by_itself_is_left_alone():
    one = made(OUTSIDE, 8)
    assert take(one, b"\n<t>abc</t>") and one.may_end and not one.forced()
    assert len(allowed(one)) == len(VOCABULARY.tokens)


def test_an_answer_without_a_thought_is_free():
    for text in (b"plain", b"say <t> ab", b"<a", b" <T>abcdef"):
        one = made(OUTSIDE, 1)
        assert take(one, text) and one.accept(SPECIAL) and not one.forced()


def test_a_tag_cut_off_by_the_limit_is_written_again():
    one = made(OUTSIDE, 4)
    assert take(one, b"<t>ab</") and list(one.forced()) == CLOSE
    assert take(one, b"</t>") and one.may_end


def test_the_grammar_holds_after_the_forced_end():
    one = made(OUTSIDE, 2, GrammarSpec("regex", "[0-9]{2}"))
    assert take(one, b"<t>ab") and list(one.forced()) == CLOSE and take(one, b"</t>")
    assert not one.accept(ord("x")) and take(one, b"12") and one.may_end
    plain = made(OUTSIDE, 2, GrammarSpec("regex", "[0-9]{2}"))
    assert take(plain, b"12") and plain.may_end


def test_steps_can_be_taken_back_and_copied():
    one = made(OUTSIDE, 2, GrammarSpec("regex", "[0-9]{2}"))
    assert take(one, b"<t>ab</")
    twin = one.copy()
    one.rollback(3)  # after "<t>a"
    assert not one.forced() and take(one, b"c</t>42") and one.may_end
    one.rollback(len("c</t>42") + 4)
    assert take(one, b"12") and one.may_end
    assert list(twin.forced()) == CLOSE[2:] and take(twin, b"t>1") and not twin.may_end


def test_one_token_that_is_the_tag_is_preferred():
    one = made(Thought("<x>", "<call>", True), 0)
    assert list(one.forced()) == [VOCABULARY.tokens.index(b"<call>")]


def test_grammars_that_hold_from_the_first_token_have_no_thought():
    spec = GrammarSpec("lark", 'start: "a"')
    assert limited(after_thought(spec, INSIDE), INSIDE, 3) is spec
