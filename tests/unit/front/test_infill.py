"""Fill-in-the-middle: each family's order of tokens, and that texts stay texts."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from octavo.core.errors import Unsupported, UserError
from octavo.front.defaults import Defaults
from octavo.front.infill import FAMILIES, family_of
from octavo.front.params import SamplingParams
from octavo.front.prompt import Options, PromptBuilder, TextSide
from octavo.text.tokenizer import Tokenizer
from octavo.text.vocabulary import Vocabulary
from tests.unit.front.scenes import builder, ready


def tokenizer_with(*marks: str, blank: bool = False) -> Tokenizer:
    """A vocabulary of bytes with these special tokens. `blank`: texts begin with a blank of its own."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE(vocab={one: n for n, one in enumerate(letters)}, merges=[]))
    if blank:
        backend.normalizer = normalizers.Prepend(" ")
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(mark, special=True, normalized=False) for mark in ("<|end|>", *marks)]
    )
    end = backend.token_to_id("<|end|>")
    return Tokenizer(Vocabulary(backend=backend, source="tiny", eos=(end,), templates={}))


def built(family, prefix="def f(", suffix="):\n", params=None, options=None, **more):
    marks = [mark for mark in (family.before, family.between, family.after, *family.ends) if mark]
    tokenizer = tokenizer_with(*marks, **more)
    side = TextSide(tokenizer, None, Defaults({}))
    maker = PromptBuilder(side, ready(vocab=tokenizer.vocab_size, eos=tokenizer.eos_token_ids))
    return tokenizer, maker.infill(prefix, suffix, params, options or Options())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.before)
def test_the_order_of_each_family(family):
    tokenizer, prepared = built(family)
    assert family_of(tokenizer) is family
    first, second = ("):\n", "def f(") if family.suffix_first else ("def f(", "):\n")
    wanted = f"{family.before}{first}{family.between}{second}{family.after}"
    assert tokenizer.decode(prepared.token_ids, skip_special=False) == wanted
    ends = {tokenizer.token_id(end) for end in family.ends}
    assert set(prepared.requests[0].sampling.stop_token_ids) == ends
    assert prepared.prompt == "def f("


def test_what_users_write_is_no_special_token():
    family = FAMILIES[0]
    tokenizer, prepared = built(family, prefix=f"a{family.after}", suffix=f"{family.before}<|end|>b")
    for mark in (family.before, family.between, family.after):
        assert prepared.token_ids.count(tokenizer.token_id(mark)) == 1
    assert tokenizer.token_id("<|end|>") not in prepared.token_ids


def test_a_suffix_gets_no_blank_of_the_tokenizers_own():
    family = next(one for one in FAMILIES if one.glued)
    tokenizer, prepared = built(family, suffix="x y", blank=True)
    text = tokenizer.decode(prepared.token_ids, skip_special=False)
    assert f"{family.between}x y{family.after}" in text


def built_plain(**more):
    return built(FAMILIES[1], **more)[1].requests[0].sampling


def test_ends_can_be_ignored_and_stand_beside_others():
    assert built_plain(params=SamplingParams(ignore_eos=True)).stop_token_ids == ()
    assert built_plain(params=SamplingParams(stop_token_ids=[7])).stop_token_ids[0] == 7


def test_what_cannot_be_filled_in():
    with pytest.raises(Unsupported, match="no tokens for filling in") as caught:
        builder().infill("a", "b")
    assert caught.value.field == "suffix" and "Qwen2.5-Coder" in caught.value.hint
    with pytest.raises(Unsupported):
        builder(text=False).infill("a", "b")
    with pytest.raises(UserError, match="text") as caught:
        built(FAMILIES[0], prefix=[1, 2])
    assert caught.value.field == "prompt"
    with pytest.raises(UserError, match="truncate_prompt_tokens"):
        built(FAMILIES[0], options=Options(truncate=5))
    with pytest.raises(UserError, match="context"):
        built(FAMILIES[0], suffix="x" * 100)
