"""Vocabularies from GGUF metadata and from folders: ids, bytes, specials, errors."""

from __future__ import annotations

import json
import threading

import pytest

from octavo.core.errors import ArtefactError, Unsupported, UserError
from octavo.text import folder_vocab
from octavo.text.tokenizer import Tokenizer
from tests.unit.text.vocab import byte_level, sentence_piece, tokenizer

TEXTS = [
    "hello world",
    "  two  spaces ",
    "tabs\tand\nlines\r\n",
    "123 4567",
    "naïve café",
    "你好，世界",
    "👨‍👩‍👧 family 🏳️‍🌈",
    "e\u0301 combining a\u030a",
    "\u0000 control \x7f",
    "don't I'll",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("metadata", [byte_level(), sentence_piece()], ids=["bytes", "spm"])
def test_text_survives_the_round_trip(text, metadata):
    made = tokenizer(metadata)
    assert made.decode(made.encode(text)) == text


def test_merges_make_words():
    made = tokenizer()
    assert [made.token_text(id) for id in made.encode("hello the world")] == ["hello", " the", " world"]


@pytest.mark.parametrize(
    ("pre", "text", "parts"),
    [
        ("smollm", "a123", ["a", "1", "2", "3"]),
        ("llama-bpe", "a1234", ["a", "123", "4"]),
        ("qwen2", "a12", ["a", "1", "2"]),
        ("gpt-2", "a1234", ["a", "1234"]),
        ("tekken", "a12", ["a", "1", "2"]),
        ("gpt-4o", "aB'll1234", ["a", "B'll", "123", "4"]),
        ("dbrx", "a1234", ["a", "123", "4"]),
    ],
)
def test_pre_tokenizers_cut_numbers_their_own_way(pre, text, parts):
    pieces = tokenizer(byte_level(pre=pre))._backend.pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in pieces] == parts


def test_an_unknown_pre_tokenizer_is_logged_and_cuts_as_gpt2(caplog):
    made = tokenizer(byte_level(pre="of-the-future"))
    assert "of-the-future" in caplog.text
    assert made.encode("hello 12") == tokenizer(byte_level(pre="gpt-2")).encode("hello 12")


def test_special_strings_count_only_where_they_may():
    made = tokenizer()
    text = "<|im_start|>hello<|im_end|>"
    assert made.encode(text)[0] == 1 and made.encode(text)[-1] == 2
    plain = made.encode(text, parse_special=False)
    assert not set(plain) & made.special_ids
    assert made.decode(plain) == text
    assert made.decode(made.encode(text)) == "hello"
    assert made.decode(made.encode(text), skip_special=False) == text


def test_user_defined_tokens_are_matched_but_not_special():
    made = tokenizer()
    assert made.encode("<think>", parse_special=False) == [3]
    assert made.decode([3]) == "<think>"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, []),
        ({"add_bos_token": True}, [1]),
        ({"add_eos_token": True}, [2]),
        ({"add_bos_token": True, "add_eos_token": True}, [1, 2]),
    ],
)
def test_borders_follow_the_files_flags(flags, expected):
    made = tokenizer(byte_level(**flags))
    assert made.encode("") == expected
    assert made.encode("", add_special=False) == []


@pytest.mark.parametrize("pre", ["llama-bpe", "tekken"])
def test_some_pre_tokenizers_imply_bos(pre):
    assert tokenizer(byte_level(pre=pre, add_bos_token=None)).encode("") == [1]
    assert tokenizer(byte_level(pre=pre)).encode("") == []


def test_tokens_named_for_a_purpose_are_special_whatever_their_type():
    metadata = byte_level()
    metadata["tokenizer.ggml.token_type"][2] = 1
    assert 2 in tokenizer(metadata).special_ids


def test_sentence_piece_adds_bos_unless_told_otherwise():
    assert tokenizer(sentence_piece()).encode("hello")[0] == 1
    assert tokenizer(sentence_piece(add_bos_token=False)).encode("hello")[0] != 1


def test_sentence_piece_falls_back_to_bytes():
    made = tokenizer(sentence_piece())
    ids = made.encode("hello é", add_special=False)
    assert b"".join(made.token_bytes(id) for id in ids) == " hello é".encode()
    assert made.token_bytes(3 + 0xC3) == b"\xc3"
    assert made.token_text(3 + 0xC3) == "\ufffd"


def test_all_known_ends_are_found():
    assert tokenizer(byte_level(eot_token_id=0)).eos_token_ids == (2, 0)


def test_word_forms_are_the_ways_a_word_can_come_up():
    made = tokenizer()
    forms = {"".join(made.token_text(id) for id in form) for form in made.word_forms("world")}
    assert forms == {"world", " world"}
    spm = tokenizer(sentence_piece())
    forms = {b"".join(spm.token_bytes(id) for id in form).decode() for form in spm.word_forms("world")}
    assert {"world", " world"} <= forms


def test_ids_beyond_the_vocabulary_stand_for_nothing():
    made = tokenizer()
    assert made.decode([made.vocab_size, 10**6]) == ""
    assert made.token_bytes(10**6) == b""


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(UserError, match="Unicode"):
        tokenizer().encode("\ud83d")


def test_threads_may_share_a_tokenizer():
    made, errors = tokenizer(), []
    expected = {text: made.encode(text, parse_special=False) for text in TEXTS}

    def work():
        for text in TEXTS * 20:
            if (
                made.encode(text, parse_special=False) != expected[text]
                or made.decode(expected[text]) != text
            ):
                errors.append(text)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": None}, "tokens is missing"),
        ({"tokens": "abc"}, "tokens is not a list"),
        ({"tokens": [1, 2]}, "tokens is not a list of str"),
        ({"merges": None}, "merges is missing"),
        ({"merges": ["nospace"]}, "not two tokens"),
        ({"merges": ["unheard of"]}, "merges does not fit"),
        ({"token_type": [1]}, "token_type has 1 entries"),
        ({"bos_token_id": 10**6}, "bos_token_id is 1000000"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"model": None}, "model is missing"),
    ],
)
def test_broken_metadata_is_named(changes, words):
    with pytest.raises(ArtefactError, match=words):
        tokenizer(byte_level(**changes))


def test_scores_must_fit_the_tokens():
    with pytest.raises(ArtefactError, match="scores has 2 entries"):
        tokenizer(sentence_piece(scores=[0.0, 1.0]))


def test_other_kinds_of_vocabulary_are_refused_with_a_remedy():
    with pytest.raises(Unsupported, match=r"--tokenizer"):
        tokenizer(byte_level(model="t5"))


# -- folders ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A folder as Hugging Face lays it out, with the vocabulary of the tests."""
    made = tokenizer(byte_level(add_bos_token=True))
    (tmp_path / "tokenizer.json").write_text(made._backend.to_str())
    config = {
        "eos_token": {"content": "<|im_end|>"},
        "bos_token": "<|im_start|>",
        "chat_template": "from config",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_folder_gives_the_same_ids(folder):
    made, reference = Tokenizer.load(str(folder)), tokenizer(byte_level(add_bos_token=True))
    for text in [*TEXTS, "<|im_start|>hello<|im_end|>"]:
        assert made.encode(text) == reference.encode(text)
        assert made.encode(text, parse_special=False) == reference.encode(text, parse_special=False)
    assert (made.bos_token_id, made.eos_token_ids) == (1, (2,))
    assert made.special_ids == {0, 1, 2}


def test_truncation_stored_in_the_file_is_not_applied(folder):
    data = json.loads((folder / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    assert len(Tokenizer.from_folder(folder).encode("hello the world")) == 4


def test_templates_of_a_folder(folder):
    assert Tokenizer.from_folder(folder).templates == {"default": "from config"}
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert Tokenizer.from_folder(folder).templates == {"default": "a", "tool_use": "b"}
    (folder / "chat_template.jinja").write_text("from file")
    assert Tokenizer.from_folder(folder).templates["default"] == "from file"


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("tokenizer.json", "{", "tokenizer.json is not a tokenizer"),
        ("tokenizer.json", "{}", "tokenizer.json is not a tokenizer"),
        ("tokenizer_config.json", "[1]", "holds list"),
        ("tokenizer_config.json", "{", "not readable JSON"),
    ],
)
def test_broken_files_are_named(folder, file, text, words):
    (folder / file).write_text(text)
    with pytest.raises(ArtefactError, match=words):
        Tokenizer.from_folder(folder)


def test_without_tokenizer_json_transformers_is_asked_for(tmp_path, monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(folder_vocab.importlib, "import_module", absent)
    with pytest.raises(Unsupported, match=r"octavo\[hf\]"):
        Tokenizer.from_folder(tmp_path)


def test_tokens_the_config_names_are_special(folder):
    data = json.loads((folder / "tokenizer.json").read_text())
    data["added_tokens"] = [row for row in data["added_tokens"] if row["content"] != "<|im_end|>"]
    (folder / "tokenizer.json").write_text(json.dumps(data))
    made = Tokenizer.from_folder(folder)
    assert 2 in made.special_ids and made.encode("<|im_end|>")[-1] == 2


def test_tokens_with_gaps_between_their_ids_keep_them(folder):
    data = json.loads((folder / "tokenizer.json").read_text())
    far = {"id": 5000, "content": "<far>", "special": True, "normalized": False}
    data["added_tokens"].append({**far, "single_word": False, "lstrip": False, "rstrip": False})
    (folder / "tokenizer.json").write_text(json.dumps(data))
    made = Tokenizer.from_folder(folder)
    assert made.specials["<far>"] in made.encode("hello<far>")
    assert made.specials["<far>"] not in made.encode("hello<far>", parse_special=False)
    assert made.decode(made.encode("hello<far>", parse_special=False)) == "hello<far>"
