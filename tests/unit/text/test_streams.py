"""Detokenizing and stop strings: a stream says what the whole says, wherever it is cut."""

from __future__ import annotations

import itertools
import random

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from octavo.text.stop import StopStrings
from octavo.text.tokenizer import Tokenizer
from octavo.text.vocabulary import Vocabulary
from tests.unit.text.vocab import sentence_piece, tokenizer

TEXTS = ["hello world", "né 你好 👨‍👩‍👧!", "e\u0301\u0301x", "a\u200d🏳️‍🌈\n", " leading", "stop the world"]
BYTES, SPM = tokenizer(), tokenizer(sentence_piece())


def word_piece() -> Tokenizer:
    """A vocabulary whose tokens are not bytes: the window has to do."""
    words = {"[UNK]": 0, "he": 1, "##llo": 2, "wor": 3, "##ld": 4, "!": 5}
    backend = Backend(models.WordPiece(words, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    return Tokenizer(Vocabulary(backend=backend, source="test"))


def cut_at(ids, *cuts):
    edges = [0, *cuts, len(ids)]
    return [ids[start:end] for start, end in itertools.pairwise(edges)]


def stream(detokenizer, parts):
    return "".join([*(detokenizer.feed(part) for part in parts), detokenizer.close()])


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("made", [BYTES, SPM], ids=["bytes", "spm"])
def test_every_cut_gives_the_whole(made, text):
    ids = made.encode(text)
    for one, two in itertools.combinations_with_replacement(range(len(ids) + 1), 2):
        assert stream(made.detokenizer(strip=True), cut_at(ids, one, two)) == made.decode(ids) == text


@pytest.mark.parametrize("made", [BYTES, SPM], ids=["bytes", "spm"])
def test_bytes_that_are_no_text_become_the_same_marks_at_every_cut(made):
    first = (made.token_bytes(4) == b"\x00" and 4) or 3
    for seed in range(60):
        rng = random.Random(seed)
        ids = [first + rng.choice([0x41, 0xC3, 0xA9, 0xF0, 0x9F, 0x98, 0x80, 0xFF, 0xE4]) for _ in range(9)]
        raw = b"".join(made.token_bytes(id) for id in ids)
        assert made.decode(ids) == raw.decode("utf-8", "replace")
        for cut in range(len(ids) + 1):
            assert stream(made.detokenizer(), cut_at(ids, cut)) == raw.decode("utf-8", "replace")


def test_a_character_comes_out_whole_or_not_at_all():
    ids = BYTES.encode("👨‍👩‍👧é")
    detokenizer = BYTES.detokenizer()
    parts = [detokenizer.feed([id]) for id in ids]
    assert "".join(parts) == "👨‍👩‍👧é"
    assert all("\ufffd" not in part for part in parts)


def test_an_unfinished_character_ends_as_a_mark():
    detokenizer = BYTES.detokenizer()
    assert detokenizer.feed(BYTES.encode("é!")[:1] if len(BYTES.encode("é")) > 1 else [4 + 0xC3]) == ""
    assert detokenizer.close() == "\ufffd"


def test_the_output_finishes_a_character_the_prompt_began():
    whole = [4 + byte for byte in "😀".encode()]
    detokenizer = BYTES.detokenizer(before=whole[:2])
    assert detokenizer.feed(whole[2:]) == "😀"


def test_the_first_space_stays_when_a_prompt_stands_before():
    ids = SPM.encode("hello", add_special=False)
    assert SPM.detokenizer(before=[1]).feed(ids) == " hello"
    assert SPM.detokenizer(strip=True).feed(ids) == "hello"


def test_special_tokens_are_shown_only_on_request():
    assert BYTES.detokenizer().feed([1, *BYTES.encode("hello"), 2]) == "hello"
    assert BYTES.detokenizer(skip_special=False).feed([2]) == "<|im_end|>"


def test_other_vocabularies_stream_too():
    made = word_piece()
    ids = [1, 2, 3, 4, 5]
    for cut in range(len(ids) + 1):
        assert stream(made.detokenizer(), cut_at(ids, cut)) == made.decode(ids) == "hello world!"


def test_a_token_costs_the_same_wherever_it_stands():
    """The window of other vocabularies stays small, also where tokens stand for nothing."""
    made = word_piece()
    detokenizer = made.detokenizer()
    for id in itertools.islice(itertools.cycle([1, 2, 3, 4, 99, 99, 99, 99, 99, 99]), 500):
        detokenizer.feed([id])
        assert len(detokenizer._window) <= 8


# -- stop strings -----------------------------------------------------------------------------


def fed(stops, parts, **how):
    made = StopStrings(stops, **how)
    return "".join([*(made.feed(part) for part in parts), made.close()]), made.matched


CASES = [
    (["stop"], "go on, stop here", "go on, ", "stop"),
    (["\n\n", "\n"], "a\n\nb", "a", "\n"),
    (["aab"], "aaab", "a", "aab"),
    (["abc", "b"], "xabc", "xa", "b"),
    (["ab", "b"], "xab", "x", "ab"),
    (["END", "ND of"], "the END of it", "the ", "END"),
    (["never"], "nev neve neverland", "nev neve ", "never"),
    (["never"], "nev neve", "nev neve", None),
    (["😀"], "a😀b", "a", "😀"),
    (["aa"], "aaaa", "", "aa"),
    (["x"], "", "", None),
]


@pytest.mark.parametrize(("stops", "text", "shown", "matched"), CASES)
def test_every_cut_stops_at_the_same_place(stops, text, shown, matched):
    for one, two in itertools.combinations_with_replacement(range(len(text) + 1), 2):
        parts = [text[:one], text[one:two], text[two:]]
        assert fed(stops, parts) == (shown, matched)
        kept = shown + (matched or "")
        assert fed(stops, parts, include=True) == (kept, matched)
    assert fed(stops, list(text)) == (shown, matched)


def test_no_part_of_a_stop_string_gets_out():
    rng = random.Random(5)
    for _ in range(300):
        stops = ["".join(rng.choices("ab", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))]
        text = "".join(rng.choices("abc", k=14))
        made, out = StopStrings(stops), ""
        for char in text:
            out += made.feed(char)
            if made.matched is not None:
                break
        out += made.close()
        ends = [(text.find(s) + len(s), text.find(s)) for s in stops if s in text]
        end, start = min(ends, default=(len(text), len(text)))
        assert out == text[:start]
        assert made.matched == (text[start:end] or None if ends else None)


def test_nothing_stops_before_it_may():
    made = StopStrings(["stop"])
    assert made.feed("a stop b st", armed=False) == "a stop b "
    assert made.feed("op c") == "st"[:0]
    assert made.matched == "stop"


def test_a_match_must_end_where_it_may():
    made = StopStrings(["aa"])
    assert made.feed("aa", armed=False) == "a"
    assert (made.feed("b"), made.matched) == ("ab", None)


def test_a_match_that_passed_early_does_not_count_later():
    made = StopStrings(["ab", "xabc"])
    assert made.feed("xab", armed=False) == ""
    assert (made.feed("q"), made.matched) == ("xabq", None)


def test_text_after_the_end_is_dropped():
    made = StopStrings(["x"])
    made.feed("ax")
    assert made.feed("more") == "" and made.close() == ""
