"""Matchers over a small vocabulary: what fits, what is allowed next, going back, the end."""

from __future__ import annotations

import json

import pytest

from octavo.core.errors import UserError
from octavo.core.request import GrammarSpec
from octavo.grammar.guidance import GuidanceBackend, problem
from tests.unit.grammar.small import END, SPECIAL, VOCABULARY, allowed, fits, matcher

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)
FITS = [
    ("json", PERSON, '{"name": "Zoé", "age": 3}', True),
    ("json", PERSON, '{\n  "name":"x",\n  "age":12}', True),
    ("json", PERSON, '{"name": "Zoeyyy", "age": 3}', False),
    ("json", PERSON, '{"name": "x", "age": -1}', False),
    ("json", PERSON, '{"name": "x", "age": 1, "b": 2}', False),
    ("json", PERSON, '{"name": "x"}', False),
    ("regex", "[a-f]{2,3}", "ab", True),
    ("regex", "[a-f]{2,3}", "abcd", False),
    ("choice", '["yes","no \\"so\\"","n"]', 'no "so"', True),
    ("choice", '["yes","no"]', "nope", False),
    ("lark", 'start: "a" num\nnum: /[0-9]+/', "a12", True),
    ("ebnf", 'root ::= "a" [0-9]+', "a12", True),
    ("ebnf", 'root ::= "a" [0-9]+', "a", False),
]


@pytest.mark.parametrize(("kind", "text", "output", "good"), FITS)
def test_what_fits(kind, text, output, good):
    assert fits(matcher(kind, text), output) is good


def test_white_space_is_bounded_and_can_be_forbidden():
    pretty = json.dumps({"name": "x", "age": 1}, indent=4)
    assert fits(matcher("json", PERSON), pretty) and fits(
        matcher("json", PERSON), '{ "name": "x", "age": 1 }'
    )
    assert not fits(matcher("json", PERSON), '{"name": "x", "age": 1\n\n}')
    assert not fits(matcher("json", PERSON, ""), '{"name": "x","age":1}')
    assert fits(matcher("json", PERSON, ""), '{"name":"x","age":1}')
    assert fits(matcher("json", PERSON, "_"), '{"name":_"x","age":1}')


def test_a_mask_is_what_accept_takes():
    one = matcher("json", PERSON)
    for token in [*b'{"nam', *b'e": "a', 256 + 5, *b'", "age": 1']:
        mask = allowed(one)
        for other in range(len(VOCABULARY.tokens)):
            trial = one.copy()
            assert trial.accept(other) is (other in mask), other
        assert one.accept(token)
    assert len(one.fill()) == -(-len(VOCABULARY.tokens) // 32) * 4


def test_a_rejected_token_changes_nothing():
    one = matcher("regex", "ab+")
    assert one.accept(ord("a"))
    before = one.fill()
    assert not one.accept(ord("z")) and one.error is None
    assert one.fill() == before


def test_going_back():
    one = matcher("regex", "[ab]{6}c")
    states = []
    for byte in b"abbaab":
        states.append(one.fill())
        assert one.accept(byte)
    one.rollback(2)
    assert one.fill() == states[4]
    one.rollback(4)
    assert one.fill() == states[0] and not one.may_end


def test_the_end_is_allowed_where_the_output_is_whole():
    one = matcher("regex", "a+")
    assert END not in allowed(one)
    one.accept(ord("a"))
    assert END in allowed(one) and one.may_end
    assert one.accept(END)
    assert allowed(one) == {END}
    one.rollback(1)
    assert {END, ord("a")} <= allowed(one)


def test_no_text_spells_a_special_token():
    one = matcher("regex", "<tool>")
    assert SPECIAL not in allowed(one) and fits(one, "<tool>")


def test_copies_do_not_see_each_other():
    one = matcher("regex", "(ab)+")
    other = one.copy()
    assert one.accept(ord("a")) and other.accept(ord("a"))
    assert one.accept(ord("b")) and not other.may_end and one.may_end


BROKEN = [
    ("json", '{"type":"object","not":{}}', "not"),
    ("json", '{"type":"x"}', "Invalid type"),
    ("json", '{"minimum":5,"maximum":1,"type":"integer"}', "Unsatisfiable"),
    ("json", '{"$ref":"https://example.com/x"}', "example.com"),
    ("json", '{"x-guidance":{"lenient":true},"uniqueItems":true,"type":"array"}', "x-guidance"),
    ("regex", "(a", "unclosed group"),
    ("regex", "(?=a)b", "look-around"),
    ("lark", "start: x", "unknown name"),
    ("lark", 'start: "a', "lexer error"),
    ("ebnf", 'root ::= "a" b', "b"),
    ("ebnf", "root ::= (", ""),
]


@pytest.mark.parametrize(("kind", "text", "says"), BROKEN)
def test_what_cannot_be_compiled_says_why(kind, text, says):
    why = problem(GrammarSpec(kind, text))
    assert why is not None and says in why and "\n" not in why
    with pytest.raises(UserError):
        matcher(kind, text)


@pytest.mark.parametrize("encode", [lambda text: [], lambda text: list((" " + text).encode())])
def test_a_tokenizer_that_changes_texts_does_no_harm(encode):
    """Where only one text can follow, masks are built on its tokens."""
    one = GuidanceBackend(VOCABULARY._replace(encode=encode)).compile(
        GrammarSpec("regex", "(x|yx)+-[abc]{3}")
    )
    for byte in b"xyx":
        for token in allowed(one):
            assert one.copy().accept(token)
        assert one.accept(byte)


def test_many_choices():
    one = matcher("choice", json.dumps([f"choice {n}" for n in range(4096)]))
    assert fits(one, "choice 4095") and not fits(one, "choice 4096") and one.error is None


HARD = [
    ("regex", r"(\w+\s?){1,200}" * 5),
    ("regex", "(a{1,1000}){1,1000}"),
    ("lark", "start: a0\n" + "\n".join(f'a{n}: "x" | a{(n + 1) % 99} a{(n + 2) % 99}' for n in range(99))),
    ("json", '{"$ref":"#"}'),
    ("json", '{"type":"array","minItems":1000000,"items":{}}'),
]


@pytest.mark.parametrize(("kind", "text"), HARD, ids=range(len(HARD)))
def test_a_grammar_without_bounds_ends_with_a_reason_or_works(kind, text):
    one = matcher(kind, text)
    for _ in range(40):
        mask = allowed(one)
        taken = one.error is None and one.accept(min(mask))
        if one.error is not None:
            assert " " in one.error and "\n" not in one.error
            return
        assert taken
